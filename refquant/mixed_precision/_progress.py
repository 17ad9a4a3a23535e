"""Progress that nobody wants to hear of."""

__all__ = ["silent"]


def silent(*news: object) -> None:
    """Nothing."""
