"""The experiment file: its schema, its names, and how it is read."""
