"""Ring 2: the race designer. When is a pause an equilibrium, and which treaty makes it one?"""
