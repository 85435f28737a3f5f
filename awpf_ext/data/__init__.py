"""Data sets, feature store and task streams."""
