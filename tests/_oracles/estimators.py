"""Inputs of the published golden vectors of estimators: one row of values, one of gradients."""

import numpy as np

#: Both signs, zero, and ties of the common grids.
X = np.array([-1.3, -0.75, -0.31, -0.05, 0.0, 0.12, 0.4, 0.95, 1.6])
G = np.arange(1, 10) / 10
