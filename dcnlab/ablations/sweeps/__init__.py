"""Sweeps without a server: their files, their trials, and how trials are run."""
