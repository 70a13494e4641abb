"""Bytes between a TPU's HBM and the chip, read from the HLO text of a program.

XLA's own "bytes accessed" add up every array that an instruction names, wherever it
lies: also what stays in the chip's own memory (VMEM), both ends of each copy between
the two, and the parts of such a copy once more when they are joined, which moves
nothing. Here an array counts where it lies in HBM, with the padding of its tiles.
"""

import re
from collections.abc import Iterable, Iterator
from math import prod

from segjax.hlo import BYTES, Instruction, Program, executed

ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")


def hbm_traffic(program: Program) -> int:
    """Bytes that one run of a program on one device reads from HBM and writes to it."""
    return sum(
        times * _moved(program, instruction, around)
        for instruction, around, times in executed(program, program.entry, [])
    )


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def arrays(shape: str) -> Iterator[tuple[int, bool]]:
    """(bytes with the padding of its tiles, whether in HBM) of each array of a shape.

    "bf16[8,64]{1,0:T(8,128)(2,1)}" has 8 * 128 * 2. A memory space, as in "S(1)", is
    another memory than HBM.
    """
    for dtype, dims, order, rest in ARRAY.findall(shape):
        sizes = _numbers(dims)
        if order:
            sizes = [sizes[i] for i in reversed(_numbers(order))]  # the last is minor
        tile = re.match(r"T\(([\d,]+)\)", rest)
        sides = _numbers(tile[1]) if tile else []
        sizes = [1] * (len(sides) - len(sizes)) + sizes
        for i, side in enumerate(reversed(sides), 1):
            sizes[-i] = -(-sizes[-i] // side) * side
        yield BYTES.get(dtype, 0) * prod(sizes), "S(" not in rest


def _in_hbm(instruction: Instruction) -> int:
    return sum(size for size, there in arrays(instruction.shape) if there)


def _size(instruction: Instruction) -> int:
    return sum(size for size, _ in arrays(instruction.shape))


def _moved(program: Program, instruction: Instruction, around) -> int:
    opcode = instruction.opcode
    known = dict.fromkeys(o for o in instruction.operands if o in around)
    operands = [around[name] for name in known]
    if opcode in ("copy-start", "slice-start"):
        (to, to_hbm), (source, from_hbm), *_ = arrays(instruction.shape)
        if opcode == "slice-start":  # the operand is told first
            (to, to_hbm), from_hbm = (source, from_hbm), to_hbm
        return to * (to_hbm + from_hbm)
    if opcode in ("slice", "dynamic-slice", "gather"):
        from_hbm = bool(operands) and _in_hbm(operands[0]) > 0
        return _size(instruction) * from_hbm + _in_hbm(instruction)
    if opcode == "dynamic-update-slice":  # where it lies
        update = operands[1]
        return _size(update) * (_in_hbm(instruction) > 0) + _in_hbm(update)
    if opcode in ("all-gather-start", "collective-permute-start"):
        return _in_hbm(instruction)  # the result names the operand, too
    if opcode != "fusion":
        return _in_hbm(instruction) + sum(map(_in_hbm, operands))
    (name,) = instruction.called["calls"]
    read = 0
    for operand in operands:
        places = [i for i, o in enumerate(instruction.operands) if o == operand.name]
        whole = _in_hbm(operand)
        if whole:
            wanted = _all(_used(program, *_parameter(program, name, i)) for i in places)
            read += whole if wanted is None else min(whole, wanted)
    return read + _written(program, name, instruction)


def _parameter(program: Program, name: str, place: int):
    """A computation and the name of its parameter."""
    computation = program.computations[name]
    return computation, next(i.name for i in computation.values() if i.number == place)


def _all(parts: Iterable[int | None]) -> int | None:
    """Their sum; None, which stands for a whole array, if one is None."""
    listed = list(parts)
    return None if None in listed else sum(part for part in listed if part)


def _used(program: Program, computation, name: str) -> int | None:
    """Bytes that a fused computation reads of an instruction's result; None: all."""
    if computation[name].root:
        return None
    users = [i for i in computation.values() if name in i.operands]
    return _all(_used_by(program, computation, user, name) for user in users)


def _used_by(program: Program, computation, user: Instruction, name: str):
    places = [i for i, operand in enumerate(user.operands) if operand == name]
    if user.opcode == "bitcast":
        return _used(program, computation, user.name)
    if user.opcode in ("slice", "dynamic-slice") and places == [0]:
        return _size(user)
    if user.opcode == "dynamic-update-slice" and places == [0]:
        return 0
    if user.opcode == "fusion":
        (inner,) = user.called["calls"]
        return _all(_used(program, *_parameter(program, inner, i)) for i in places)
    return None


def _written(program: Program, name: str, fusion: Instruction) -> int:
    """Of a fusion's results in HBM what is written: of one updated, the update."""
    computation = program.computations[name]
    (root,) = (i for i in computation.values() if i.root)
    if root.opcode == "fusion":
        (inner,) = root.called["calls"]
        return _written(program, inner, fusion)
    results = list(arrays(fusion.shape))
    roots = [root.name] if root.opcode != "tuple" else list(root.operands)
    if len(roots) != len(results):  # a part has several itself
        return _in_hbm(fusion)
    return sum(
        min(size, _updated(computation, part, size)) * there
        for (size, there), part in zip(results, roots, strict=True)
    )


def _updated(computation: dict[str, Instruction], name: str, whole: int) -> int:
    """What is written of a result: ``whole``, unless it is an operand with updates."""
    made, total = computation[name], 0
    while made.opcode in ("bitcast", "dynamic-update-slice"):
        if made.opcode == "dynamic-update-slice":
            total += _size(computation[made.operands[1]])
        made = computation[made.operands[0]]
    there = made.opcode == "parameter" or made.target == "AllocateBuffer"
    return total if there and total else whole
