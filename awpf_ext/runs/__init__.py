"""Runs: configuration, trainer, evaluation, the run folder, and what is made of a finished run."""
