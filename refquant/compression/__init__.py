"""COMPRESSION: fewer bits for the same codes, and fewer numbers to code."""
