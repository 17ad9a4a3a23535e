"""Which quantiles of what was resampled make an interval."""

from refquant._validate import require_fraction

__all__ = ["tails"]


def tails(confidence: float) -> list[float]:
    """The two probabilities that leave out as much on either side."""
    require_fraction("confidence", confidence)
    return [(1 - confidence) / 2, (1 + confidence) / 2]
