"""BYTES and SPEED: each kernel beside its readable twin and its peers."""
