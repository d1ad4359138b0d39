"""G1, authorship: the share of surviving new code lines that are attributed to AI."""
