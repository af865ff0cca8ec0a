"""Loggers of a run: metrics.csv, the console, and the mirror on Weights & Biases."""
