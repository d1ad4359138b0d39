"""What decides the bits a step yields, apart from the recipe: machines with one profile replay bit for bit.

Where profiles differ, an honest replay differs too; that is an environment mismatch and never called fraud. The profile
lies in the evidence, so that whoever replays knows what to adopt and which distributions to compare.
"""

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch

from brakeline.core.encoding import canonical, parse, tagged
from brakeline.core.errors import Malformed
from brakeline.node.disk import write_atomic
from brakeline.training.distributions import fingerprints, normal

# Each of these was seen to change the bits of a training step, or decides which kernel runs.
VARIABLES: Final = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "GLIBC_TUNABLES",
    "KMP_DETERMINISTIC_REDUCTION",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "PYTHONHASHSEED",
    "TORCH_BLAS_PREFER_CUBLASLT",
)
# Where a program does not say how many threads, BLAS looks at these, in this order, and then at the processors.
_BLAS_THREADS: Final = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
PROFILE: Final = "environment.json"  # in a run's evidence
MAX_PROFILE: Final = 1 << 18


def profile(distributions: Iterable[str] = ()) -> dict[str, Any]:
    """The environment profile of this process: the same wherever the same bits are to be expected.

    `distributions` are those that the recipe imports, beside torch and NumPy.
    """
    cuda = torch.cuda.is_available()
    return {
        "version": 2,
        "python": f"{platform.python_implementation()} {sys.version}",
        "libc": " ".join(platform.libc_ver()),
        "distributions": fingerprints(distributions),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda or "",
        "cudnn": torch.backends.cudnn.version() or 0 if cuda else 0,  # type: ignore[no-untyped-call]
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_flags": _cpu_flags(),
        "blas_threads": next((os.environ[v] for v in _BLAS_THREADS if os.environ.get(v)), str(processors())),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "default_dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "mkldnn": torch.backends.mkldnn.enabled,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def digest(profile: dict[str, Any]) -> str:
    """Hex SHA-256 that a declaration and a replay carry."""
    return tagged("brakeline/environment/v2", canonical(profile)).hex()


def profile_path(evidence: Path, moved: int | None = None) -> Path:
    """Where a run's evidence has its profile: the one declared, or that of a move at a step."""
    return evidence / (PROFILE if moved is None else f"environment-{moved:08d}.json")


def keep_profile(profile: dict[str, Any], evidence: Path, moved: int | None = None) -> None:
    """Put the profile into a run's evidence. Raises Unavailable."""
    write_atomic(profile_path(evidence, moved), canonical(profile))


def kept_distributions(evidence: Path) -> tuple[str, ...]:
    """The names of the distributions in the profile that lies in a run's evidence; none where there is none.

    Nothing is believed of it but what to compare: the digest of one's own profile decides.
    """
    try:
        with (evidence / PROFILE).open("rb") as f:
            named = parse(f.read(MAX_PROFILE), dict[str, Any]).get("distributions")
    except (OSError, Malformed):
        return ()
    return normal(named) if isinstance(named, dict) else ()


def processors() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    return _cpu("model name") or platform.processor()


def _cpu_flags() -> str:
    """A digest: the flags fill a page, and say nothing to a reader but that they are the same."""
    return hashlib.sha256(" ".join(sorted(_cpu("flags").split())).encode()).hexdigest()[:32]


def _cpu(what: str) -> str:
    try:
        found = re.search(rf"^{what}\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else ""
