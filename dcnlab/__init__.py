"""Deformable convolutional networks: operators, networks and the ablations of the paper as one experiment suite."""
