"""On the path of a job that `brakeline run --attach` starts: Python imports it before the job's own code."""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_HERE = str(Path(__file__).parent)


def _others() -> None:
    """What this file hides: the sitecustomize of the interpreter's environment, if it has one."""
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if path != _HERE])
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


_others()
try:
    from brakeline.adapters.attached import install
except ImportError as e:
    print(f"warning: brakeline run --attach: {e}; the job is stopped by signals alone", file=sys.stderr)
else:
    install()
