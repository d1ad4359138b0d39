"""The machine that a figure was measured on. Run alone, prints just that."""

import os

import torch

from brakeline.training.environment import profile


def machine() -> str:
    """Processor, cores, versions and the load at this moment, on one line."""
    p = profile()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} for PyTorch"
    return f"machine: {p['cpu']}, {cores}, Python {p['python']}, PyTorch {p['torch']}, load {load}"


if __name__ == "__main__":
    print(machine())
