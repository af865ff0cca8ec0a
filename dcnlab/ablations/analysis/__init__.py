"""Analyses of trained runs: effective dilation, cost, robustness, and the paper's figures."""
