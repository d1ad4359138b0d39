"""Ring 2: gauges of recursive self-improvement. Each measures, with an interval; the treaty says what follows."""
