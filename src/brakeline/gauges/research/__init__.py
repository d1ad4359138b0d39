"""G4 research loop: how much of a weak-to-strong gap autonomous researchers recover, and what of it survives sealed."""
