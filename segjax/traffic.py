"""Bytes between a TPU's HBM and the chip, read from the HLO text of a program.

XLA's own "bytes accessed" add up every array that an instruction names, wherever it
lies: also what stays in the chip's own memory (VMEM), both ends of each copy between
the two, and the parts of such a copy once more when they are joined, which moves
nothing. Here an array counts where it lies in HBM, with the padding of its tiles.
"""

import re
from collections.abc import Iterator
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


def _moved(program: Program, instruction: Instruction, around) -> int:
    opcode = instruction.opcode
    if opcode in ("copy-start", "slice-start"):
        (to, to_hbm), (source, from_hbm), *_ = arrays(instruction.shape)
        if opcode == "slice-start":  # the operand is told first
            (to, to_hbm), from_hbm = (source, from_hbm), to_hbm
        return to * (to_hbm + from_hbm)
    if opcode in ("slice", "dynamic-slice", "gather"):
        return 2 * _in_hbm(instruction)
    operands = dict.fromkeys(o for o in instruction.operands if o in around)
    if opcode != "fusion":
        return _in_hbm(instruction) + sum(_in_hbm(around[o]) for o in operands)
    (name,) = instruction.called["calls"]
    read = 0
    for operand in operands:
        size = _in_hbm(around[operand])
        places = [i for i, o in enumerate(instruction.operands) if o == operand]
        if size:
            wanted = sum(_read(program, name, place) for place in places)
            read += min(size, wanted)
    return read + _written(program, name, instruction)


def _parameter(computation: dict[str, Instruction], place: int) -> Instruction:
    return next(
        i for i in computation.values() if i.opcode == "parameter" and i.number == place
    )


def _read(program: Program, name: str, place: int) -> int:
    """What a fused computation reads of a parameter, if it lies in HBM."""
    computation = program.computations[name]
    parameter = _parameter(computation, place)
    whole = sum(size for size, _ in arrays(parameter.shape))
    total = 0
    for user in computation.values():
        places = [i for i, o in enumerate(user.operands) if o == parameter.name]
        if not places:
            continue
        if user.opcode in ("slice", "dynamic-slice") and places == [0]:
            total += sum(size for size, _ in arrays(user.shape))
        elif user.opcode == "fusion":
            (inner,) = user.called["calls"]
            total += sum(_read(program, inner, i) for i in places)
        elif user.opcode != "dynamic-update-slice" or places != [0]:
            return whole
    return total


def _written(program: Program, name: str, fusion: Instruction) -> int:
    """Of a fusion's results in HBM what is written: of one updated, the update."""
    computation = program.computations[name]
    (root,) = (i for i in computation.values() if i.root)
    if root.opcode == "fusion":
        (inner,) = root.called["calls"]
        return _written(program, inner, fusion)
    roots: list[Instruction | None] = [root]
    if root.opcode == "tuple":
        roots = [computation[operand] for operand in root.operands]
    results, total = list(arrays(fusion.shape)), 0
    roots += [None] * (len(results) - len(roots))  # a part may have several itself
    for (size, there), made in zip(results, roots, strict=False):
        while made is not None and made.opcode == "bitcast":
            made = computation[made.operands[0]]
        if made is not None and made.opcode == "dynamic-update-slice":
            update = computation[made.operands[1]]
            size = min(size, sum(part for part, _ in arrays(update.shape)))
        total += size * there
    return total
