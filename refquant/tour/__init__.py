"""``refquant tour``: every concept of the library, measured once on real input.

To add a row, write one function in a module of this package, or in a new one::

    def nf4(subject: Subject) -> Row:
        row = subject.weights("NF4, blocks of 64", fit, view=partial(blocks, size=64))
        return row.expect(21.5, "arXiv:2305.14314").claim("beats INT4", row.sqnr > 18.9)

and put its name into the list ``ROWS`` of that module; a new module goes into ``GROUPS`` of
`refquant.tour.guide`. Nothing else knows of it: `Subject.weights` measures any fit on a Gauss
layer, on a layer with outliers and on the network; a claim that does not hold fails the tour.
"""

from refquant.tour.guide import take_tour
from refquant.tour.subject import Claim, Row, Subject, blocks, whole

__all__ = ["Claim", "Row", "Subject", "blocks", "take_tour", "whole"]
