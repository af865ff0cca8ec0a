"""Training: runs, from a config to results.json."""
