"""Git histories as evidence: strict commands, windows, commits, and which lines of a window survive."""
