"""Tasks: LightningModules that train and score a network."""
