"""Tables of runs, compared with the paper's."""
