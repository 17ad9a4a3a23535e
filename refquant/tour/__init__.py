"""``refquant tour``: every concept of the library, measured once on real input.

To add a row, write one function in a module of this package, or in a new one::

    def nf4(subject: Subject) -> Row:
        \"\"\"NF4 in blocks of 64, against the optimum for Gauss data.\"\"\"
        row = subject.weights("NF4, blocks of 64", fit, view=partial(blocks, size=64))
        return row.claim("no worse than INT4", row.sqnr > 18.0)

and put its name into the list ``ROWS`` of that module; a new module goes into ``GROUPS`` of
`refquant.tour.guide`. Nothing else knows of it. `Subject` has the data and does the measuring.
"""

from refquant.tour.guide import take_tour
from refquant.tour.subject import Claim, Row, Subject, blocks, whole

__all__ = ["Claim", "Row", "Subject", "blocks", "take_tour", "whole"]
