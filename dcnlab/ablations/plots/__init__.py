"""Plots: images with what lies over them, curves of robustness, and the charts of the report."""
