"""Brakeline: a coordinated pause for AI training that anyone can verify."""

__version__ = "0.1.0"
