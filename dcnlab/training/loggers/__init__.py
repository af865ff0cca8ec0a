"""Where a run's metrics and messages go."""
