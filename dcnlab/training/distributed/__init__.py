"""Ranks: rendezvous, failures, collectives, and what SLURM says of them."""
