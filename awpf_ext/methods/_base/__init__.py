"""What all methods of a kind share: the loops, replay, class statistics and published presets."""
