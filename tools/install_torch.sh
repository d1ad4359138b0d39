#!/bin/sh
# install_torch.sh PYTHON: put PyTorch into PYTHON's environment, the build that suits this machine, unless it is there.
# A specifier alone takes the newest CUDA build (gigabytes) even where a CPU wheel lies on the disk; hence the order.
set -eu
PY=$1
SPEC="torch>=2.4,<3"

"$PY" -c 'import torch' 2>/dev/null && exit 0

# 1. A wheel on the disk (PIP_FIND_LINKS), no network. Its dependencies come with the package's own.
if [ -z "${BRAKELINE_TORCH:-}" ] && "$PY" -m pip install -q --no-index --no-deps "$SPEC" 2>/dev/null; then
    exit 0
fi

# 2. uv picks CPU, CUDA or ROCm for the driver it finds; BRAKELINE_TORCH=cpu, cu130, ... says which.
echo "   PyTorch: build ${BRAKELINE_TORCH:-chosen for this machine}" >&2
if "$PY" -m pip install -q "uv>=0.8" &&
    UV_HTTP_RETRIES=0 "$PY" -m uv pip install -q --python "$PY" --torch-backend="${BRAKELINE_TORCH:-auto}" "$SPEC"; then
    exit 0
fi
if [ -n "${BRAKELINE_TORCH:-}" ]; then
    echo "error: no PyTorch build '$BRAKELINE_TORCH'. hint: unset BRAKELINE_TORCH to take what the package index has" >&2
    exit 1
fi

# 3. What the package index has: on Linux the CUDA build, large, and it runs on a CPU as well.
echo "   PyTorch: the package index's default build" >&2
"$PY" -m pip install -q "$SPEC"
