"""Where people train: other people's loops, exact through stop, kill and resume. One file a framework."""
