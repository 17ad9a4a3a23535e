"""What integer hardware and the runtimes on it really compute, bit for bit.

`refquant.integer.dialects` holds the quantize kernels of the common runtimes
side by side, `refquant.integer.arithmetic` the fixed-point multiplication with
which an integer-only network changes its scale.
"""
