"""Data on its way in and out: fetchers, topics and their codecs, and the publisher."""
