"""segjax: semantic segmentation research in JAX/Flax.

``segjax.load(workdir)`` gives a trained run. Importing the package imports nothing:
``segjax --help`` answers at once.
"""

__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> object:
    """``load``, imported when it is asked for."""
    if name != "load":
        raise AttributeError(f"module 'segjax' has no attribute {name!r}")
    from segjax.api import load

    return load
