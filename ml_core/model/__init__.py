"""Models: the networks, the graph that is trained and served, export to ONNX, and inference without torch."""
