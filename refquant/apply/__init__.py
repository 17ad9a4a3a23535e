"""Methods on networks, by name: calibrate, simulate, train, rewrite, lower."""
