"""Data sets: ticks or bars under a name and a version, told apart by a hash of what they hold."""
