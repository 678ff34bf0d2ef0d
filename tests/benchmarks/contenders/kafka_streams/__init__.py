"""Kafka Streams with ONNX Runtime in Java: the strongest opponent. README.md says how it is built and started."""
