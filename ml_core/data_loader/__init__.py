"""Numpy arrays -> batches; torch is one adapter."""
