"""LEVELS: one class per quantizer family."""
