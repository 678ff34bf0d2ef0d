"""A real Kafka to talk to: one for the length of a ``with`` block, or one that goes on in the background."""

from streams.local_kafka.temporary import broker

__all__ = ["broker"]
