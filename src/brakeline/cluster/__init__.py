"""Ring 2: stopping jobs that can't be changed."""
