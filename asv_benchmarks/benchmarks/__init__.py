"""The benchmark suite: one class per module of refquant, at the mirrored path."""
