"""Adapters of other libraries: each imports its library when made, none when read."""
