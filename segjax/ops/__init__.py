"""The hot operations: one public function each, several formulations behind it.

:mod:`segjax.ops.table` chooses the formulation by platform, shapes and dtype.
"""
