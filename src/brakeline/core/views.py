"""What people and programs want to know of a state, in plain values and in sentences. Nothing here decides, and no code
reads a sentence back.
"""



