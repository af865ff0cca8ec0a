"""LightningModules: what a network is trained and scored for."""
