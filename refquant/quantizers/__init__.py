"""LEVELS: what a code means. One quantizer family to a module."""
