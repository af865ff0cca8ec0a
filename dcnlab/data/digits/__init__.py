"""The embedded data set: scenes of handwritten digits."""
