"""Shared parts of methods: base classes, training loops, replay, class statistics and presets."""
