"""What a function computes from its variables alone, computed once, ahead of it.

A network arranges its kernels for the operation that uses them: transforms them, sums
them, turns them about. In training they change with each step; in inference that work
comes out the same at every call.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.extend import core

CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
}
"""Equations that stand for equations of their own, and where these are."""
REPEATED = "broadcast_in_dim"
"""Made anew where it is read: of a channel's bias, say, it makes a whole map."""


def compute_ahead(
    function: Callable[..., Any], variables: Any, *arrays: Any
) -> tuple[Callable[..., Any], list[jax.Array]]:
    """Split ``function(variables, *arrays)`` into what is known already, and the rest.

    Args:
      function: traceable, e.g. the class of every pixel by
        ``model.apply`` or that of :func:`segjax.models.fold_batch_norm`.
      variables: a tree of arrays.
      arrays: trees of arrays, or of their jax.ShapeDtypeStruct.

    Returns:
      A function and its first argument, ``prepared``: function(prepared, *arrays) is
      what the whole would give, for arrays of these shapes and dtypes only; for
      ``jax.jit``, in inference. Its derivatives do not follow custom rules.

    Raises:
      ValueError: the function has side effects (jax.debug.print).
    """
    leaves, tree = jax.tree.flatten(variables)
    expected = jax.tree.map(_type, arrays)

    def flat(leaves, *arrays):
        return function(jax.tree.unflatten(tree, leaves), *arrays)

    called, shapes = jax.make_jaxpr(flat, return_shape=True)(leaves, *arrays)
    if called.effects:
        raise ValueError(f"what has side effects has none ahead: {called.effects}")
    inline = jax.make_jaxpr(lambda *values: _evaluate(called, values))
    inlined = inline(*called.in_avals)
    program, result = inlined.jaxpr, jax.tree.structure(shapes)
    given = dict(zip(program.constvars, inlined.consts, strict=True))
    before, after, needed = _split(program, set(program.invars[: len(leaves)]))

    @jax.jit
    def prepare(leaves):
        values = given | dict(zip(program.invars, leaves, strict=False))
        _run(before, values)
        return [values[v] for v in needed]

    def rest(prepared, *arrays):
        found = jax.tree.map(_type, arrays)
        if found != expected:
            raise ValueError(f"computed ahead for {expected}, not for {found}")
        flat = jax.tree.leaves(arrays)
        values = given | dict(zip(program.invars[len(leaves) :], flat, strict=True))
        values |= dict(zip(needed, prepared, strict=True))
        _run(after, values)
        return jax.tree.unflatten(result, _read(program.outvars, values))

    return rest, prepare(leaves)


def _type(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _evaluate(closed: Any, arguments: Iterable[Any]) -> list[Any]:
    """A program's results; traced, it has no equation of :data:`CALLS` left."""
    program = closed.jaxpr
    values = dict(zip(program.constvars, closed.consts, strict=True))
    values |= dict(zip(program.invars, arguments, strict=True))
    _run(program.eqns, values)
    return _read(program.outvars, values)


def _run(equations: Iterable[Any], values: dict[Any, Any]) -> None:
    """Add what the equations define to the values of variables."""
    for equation in equations:
        operands = _read(equation.invars, values)
        inner = CALLS.get(equation.primitive.name)
        if inner is not None:
            called = equation.params[inner]
            if isinstance(called, core.Jaxpr):
                called = core.ClosedJaxpr(called, ())
            found = _evaluate(called, operands)
        else:
            options = equation.primitive.get_bind_params(equation.params)
            with equation.ctx.manager:
                found = equation.primitive.bind(*operands, **options)
            found = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, found, strict=True))


def _read(atoms: Iterable[Any], values: dict[Any, Any]) -> list[Any]:
    return [a.val if isinstance(a, core.Literal) else values[a] for a in atoms]


def _split(program: Any, known: set[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The equations to run ahead, those to run later, and what these need of the first.

    ``known`` are the variables that are there ahead. An equation may be in both lists.
    """
    known, made = set(known), {}
    constant = set(program.constvars)
    for equation in program.eqns:
        read = {a for a in equation.invars if not isinstance(a, core.Literal)}
        if not read <= known | constant:
            continue
        # What depends on nothing at all is a constant: made wherever it is read.
        (known if read & known else constant).update(equation.outvars)
        made.update((v, equation) for v in equation.outvars)
    again, needed = set(), set()

    def want(atoms):
        for a in atoms:
            if isinstance(a, core.Literal) or a not in known | constant:
                continue
            source = made.get(a)
            repeated = source is not None and source.primitive.name == REPEATED
            if source is not None and (a in constant or repeated):
                again.add(id(source))
                want(source.invars)
            elif a in known:
                needed.add(a)

    later = [e for e in program.eqns if not set(e.outvars) <= known | constant]
    for equation in later:
        want(equation.invars)
    want(program.outvars)
    late = {id(e) for e in later}
    before = [e for e in program.eqns if id(e) not in late]
    after = [e for e in program.eqns if id(e) in late or id(e) in again]
    order = [v for v in (*program.invars, *made) if v in needed]
    return before, after, order
