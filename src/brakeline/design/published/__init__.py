"""Closed forms of published models, each with the check values that its tests pin: what this model is compared with."""
