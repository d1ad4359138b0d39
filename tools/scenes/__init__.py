"""What the vectors show: each module makes those of some nouns, on the worlds of tests/world.py.

A scene says in its own text what must come of it. When the rules change and another thing comes of it, making the
vectors fails, so that nobody regenerates a change of meaning unseen.
"""
