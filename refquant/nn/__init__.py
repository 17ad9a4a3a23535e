"""Networks as lists of named operations; nothing in here knows of quantization."""
