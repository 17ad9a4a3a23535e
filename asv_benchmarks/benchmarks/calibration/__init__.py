"""RANGE: the cost of finding one, and the error it leaves."""
