"""Multiply-adds of a network, counted in its jaxpr.

XLA's own count leaves out the taps of a convolution that fall on padding (3.97 instead
of the 4.09 billion of a ResNet-50 that everybody names) and counts additions of all
kinds. Here, as in the papers: convolutions and products of matrices. A product with a
constant (bilinear interpolation) is none of the network's.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def count_macs(function: Callable, *arguments: Any) -> int:
    """Multiply-adds of ``function(*arguments)``; abstract arguments will do."""
    closed = jax.make_jaxpr(function)(*arguments)
    return _count(closed.jaxpr, [False] * len(closed.jaxpr.invars))[0]


def _count(jaxpr: Jaxpr, constant: list[bool]) -> tuple[int, list[bool]]:
    """(multiply-adds, which outputs are constants), given which inputs are."""
    known = dict(zip(jaxpr.invars, constant, strict=True))
    known |= dict.fromkeys(jaxpr.constvars, True)

    def fixed(var) -> bool:
        return isinstance(var, Literal) or known.get(var, False)

    total = 0
    for eqn in jaxpr.eqns:
        flags = [fixed(var) for var in eqn.invars]
        inner = [j for value in eqn.params.values() for j in _jaxprs(value)]
        out = [all(flags)] * len(eqn.outvars)
        if inner:
            own = flags[-len(inner[0].invars) :] if inner[0].invars else []
            counts = [
                _count(j, own) if len(own) == len(j.invars) else None for j in inner
            ]
            fits = [c for c in counts if c is not None]
            total += eqn.params.get("length", 1) * max((c[0] for c in fits), default=0)
            if len(fits) == 1 and len(fits[0][1]) == len(out):
                out = fits[0][1]
        elif not any(flags[:2]):
            total += _macs(eqn)
        known |= dict(zip(eqn.outvars, out, strict=True))
    return total, [fixed(var) for var in jaxpr.outvars]


def _jaxprs(value: Any) -> list[Jaxpr]:
    """The jaxprs in a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, (list, tuple)):
        return [j for one in value for j in _jaxprs(one)]
    return []


def _macs(eqn: Any) -> int:
    """Of one convolution or product; 0 for anything else."""
    out = eqn.outvars[0].aval
    if eqn.primitive.name == "conv_general_dilated":
        spec = eqn.params["dimension_numbers"].rhs_spec
        kernel = eqn.invars[1].aval.shape
        taps = math.prod(kernel[axis] for axis in spec[2:])
        # Of a transposed convolution's taps only one in the stride meets a pixel.
        apart = math.prod(eqn.params["lhs_dilation"])
        return out.size * taps * kernel[spec[1]] // apart
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval.shape
        return out.size * math.prod(left[axis] for axis in contracted)
    return 0
