"""Ticks or frames in, numpy out: features, windows, labels, samples."""
