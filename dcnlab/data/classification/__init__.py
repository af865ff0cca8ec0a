"""Image classification from folders."""
