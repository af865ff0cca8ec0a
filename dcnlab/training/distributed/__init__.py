"""Several ranks in one run."""
