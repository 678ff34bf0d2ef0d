"""Ways to learn a model from a processed data set; each ends with the ONNX file that serves."""
