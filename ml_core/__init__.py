"""The learning stages; knows no transport, no wall clock, no environment."""
