"""Reads untrusted files safely and writes files whole."""
