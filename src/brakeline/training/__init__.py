"""Ring 2, extra `torch`: the gate and the recorder inside a training process, and the inspector's replay."""

import os

# Before torch loads OpenMP: its threads spin while they wait, and one busy neighbour then slows a two-thread step
# fortyfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
