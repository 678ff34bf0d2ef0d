"""The stream worker: ticks in, rows and predictions out."""
