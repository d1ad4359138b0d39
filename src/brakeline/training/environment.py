"""What decides the bits a step yields, apart from the recipe: machines with one profile replay bit for bit.

Where profiles differ, an honest replay differs too; that is an environment mismatch and never called fraud.
"""

import os
import platform
import re
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from brakeline.core.encoding import canonical, tagged

# Each of these was seen to change the bits of a training step, or decides which kernel runs.
VARIABLES: Final = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "PYTHONHASHSEED",
    "TORCH_BLAS_PREFER_CUBLASLT",
)


def profile() -> dict[str, Any]:
    """The environment profile of this process: the same wherever the same bits are to be expected."""
    cuda = torch.cuda.is_available()
    return {
        "version": 1,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda or "",
        "cudnn": torch.backends.cudnn.version() or 0 if cuda else 0,  # type: ignore[no-untyped-call]
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "world_size": dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
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
    return tagged("brakeline/environment/v1", canonical(profile)).hex()


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor()
