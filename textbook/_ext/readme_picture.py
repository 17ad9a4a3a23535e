"""Draw the picture of the README: python textbook/_ext/readme_picture.py."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from refquant.tour.figures import STYLE, clipping, staircase
from refquant.tour.subject import Subject

HERE = Path(__file__).parent.parent / "_static" / "readme.svg"


def main() -> None:
    """Write the file, the same bytes every time."""
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(10, 3.4))
        left, right = figure.subfigures(1, 2)
        subject = Subject.make(quick=False)
        staircase(subject, left)
        clipping(subject, right)
        figure.savefig(HERE, metadata={"Date": None, "Creator": None})
        print(HERE)


if __name__ == "__main__":
    main()
