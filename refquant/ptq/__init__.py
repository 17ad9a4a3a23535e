"""ASSIGNMENT, TRANSFORM, CORRECTION: post-training methods, pure functions of arrays."""
