"""refquant: the golden reference for neural-network quantization, in readable NumPy.

Import the module that has the concept's name::

    from refquant.quantizers.uniform import symmetric
    from refquant.quantizer import fake_quantize

The package itself loads nothing, so ``import refquant`` costs nothing.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
