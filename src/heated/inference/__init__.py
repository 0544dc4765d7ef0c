"""A trained model for images of any size, and as ONNX."""
