"""Ring 3: one file a command."""
