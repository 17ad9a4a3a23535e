"""Training with quantization: what a gradient does when it meets a rounding."""
