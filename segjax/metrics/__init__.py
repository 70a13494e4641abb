"""Metrics of a whole split, every one a ratio of sums over its images.

What a device counts (:mod:`confusion`, :mod:`calibration`) and what the host counts
image by image (:mod:`boundary`, :mod:`objects`, :mod:`images`) are arrays that add up,
whatever the batches, devices or processes; :class:`Tally` holds them all. Definitions
and sources: docs/metrics.md.
"""

from segjax.metrics.calibration import calibration_rows
from segjax.metrics.confusion import (
    Confusion,
    confusion_matrix,
    confusion_of_scores,
    summarize,
)
from segjax.metrics.outlines import Outlines
from segjax.metrics.tally import Tally

__all__ = [
    "Confusion",
    "Outlines",
    "Tally",
    "calibration_rows",
    "confusion_matrix",
    "confusion_of_scores",
    "summarize",
]
