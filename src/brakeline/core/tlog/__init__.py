"""The log's formats, as C2SP specifies them: trees, notes, checkpoints, tiles, proofs, and whom to believe."""
