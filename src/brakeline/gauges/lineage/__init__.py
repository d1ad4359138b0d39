"""G5 lineage: does rare misalignment grow from parent to successor, and is the ancestry told without gaps?"""
