"""G3, training-code speed-up: how many times faster a candidate makes a program that trains a small language model.

A *candidate* is a folder with a `train.py`. The verifier runs it and the baseline in turns, each in a fresh, sandboxed
process on one core, on text that is drawn for that pair alone, and times the whole process. The candidate must hand
over weights at steps the verifier chose; they must be the baseline's up to rounding. s = exp(mean ln(t_base / t_cand)).
"""
