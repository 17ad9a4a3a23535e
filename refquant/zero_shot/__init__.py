"""DATA: quantization without the training set."""
