"""G2, throughput: merged code lines per engineer and working day, against a base period."""
