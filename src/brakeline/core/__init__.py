"""Ring 0: bytes, numbers and `now` in; values out.

Nothing here touches a disk, a socket, a clock, a random source or a terminal. An auditor who reads this folder
knows what every verdict means.
"""
