"""BYTES and SPEED: the fast twin of a readable definition, equal to it bit for bit."""
