"""The ports over Redis and ONNX Runtime."""
