"""`brakeline demo`: the whole circle on one machine, with real processes."""

from brakeline.cli.demo.command import command

__all__ = ["command"]
