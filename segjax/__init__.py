"""segjax: semantic segmentation research in JAX/Flax.

Importing the package imports nothing else: ``segjax --help`` answers at once.
"""

__version__ = "0.1.0.dev0"
