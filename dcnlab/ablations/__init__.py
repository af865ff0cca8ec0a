"""Sweeps without a server, and the tables that come out of them."""
