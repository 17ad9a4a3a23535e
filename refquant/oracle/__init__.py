"""The oracle: questions in bits, and the answer that each dialect must give.

`refquant.oracle.vectors` reads the corpus that ships in ``data``; the other modules make
it, prove it and hold other libraries against it.
"""
