"""Data sets, their transforms and LightningDataModules; the embedded digits."""
