"""Ring 1: what touches disk, sockets and the clock. Decides nothing about the treaty."""
