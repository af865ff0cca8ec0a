"""Plots: images with overlays, curves of robustness, and the charts of the report."""
