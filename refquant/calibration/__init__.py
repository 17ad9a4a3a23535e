"""Calibration: choose the range that the levels of a quantizer cover.

===================  ====================================================
module               the range is
===================  ====================================================
`minmax`             everything seen
`moving_average`     everything seen lately
`percentile`         all but the rarest values
`mse`                where the squared error of this data is least
`entropy`            where the histogram loses the least information
`aciq`               where a Laplace or Gauss model of the data errs least
===================  ====================================================

`statistics` is what is remembered between batches, `density` the truth that
`aciq` approximates, `bit_allocation` the same trade-off between channels,
`dynamic` the choice between one range for all data and one for each call,
`calibration_data` the question how much data is enough, and `timesteps` what a network needs that
runs in a loop.
"""
