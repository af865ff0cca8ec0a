"""Runs: from a config to results.json."""
