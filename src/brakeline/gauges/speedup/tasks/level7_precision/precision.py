"""The precision of weights, gradients and everything between."""

import numpy as np

FLOAT = np.float32
