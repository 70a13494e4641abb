"""What the TPU compiler says of a program: its HLO text, read and added up.

The scheduled HLO of a compiled program carries, in each fusion's ``backend_config``,
the compiler's own ``estimated_cycles``. :func:`account` walks the entry computation,
counts the body of a loop as often as it runs, and adds up.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "s4", "u4", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
}
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# They move nothing: names for what others made, or memory reserved. A "-done" ends what
# its "-start" counted.
FREE_CALLS = ("AllocateBuffer", "ConcatBitcast")
FREE = (
    "parameter constant tuple get-tuple-element bitcast after-all partition-id "
    "replica-id add-dependency opt-barrier iota"
).split()
# Between HBM and the chip's own memory, by the DMA engines: an operand comes closer
# before it is needed, a result goes after it was made.
PREFETCHES = ("copy-start", "slice-start")
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
CALLED = re.compile(
    r"(calls|to_apply|condition|body|branch_computations)=(%[\w.\-]+|\{[^}]*\})"
)
# Parts of an operation's name that are the tracer's, not the model's.
WRAPPED = re.compile(r"^(?:jvp|transpose|vmap)\((.*)\)$")
NO_MODULE = re.compile(
    r"|(jit|pjit|shard_map|checkpoint|remat\w*|custom_\w+)\(.*\)"
    r"|while|body|cond|closed_call|checkpoint|rematted_computation"
    # The outermost module's class, its methods, and the formulas of einsum.
    r"|[A-Z].*|.*->.*|.*\._?\w+"
)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation; ``size`` and operands' sizes are logical bytes."""

    name: str
    opcode: str
    shape: str
    size: int
    operands: tuple[str, ...]
    called: dict[str, list[str]]  # attribute -> computations
    op_name: str
    cycles: int | None
    trips: int | None
    target: str  # of a custom call
    direction: str  # of a comparison
    index: int | None  # of a tuple's element
    value: int | None  # of a scalar constant
    number: int | None  # of a parameter
    root: bool


@dataclass(frozen=True)
class Program:
    """A parsed module: name -> computation, and the entry's name."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


@dataclass
class Account:
    """Sums over one run of the program on one device.

    ``cycles`` are the compiler's estimates; ``bytes`` what the instructions read and
    write, by their logical shapes. ``unestimated`` maps what has no estimate (opcode,
    or a custom call's target) to its bytes; ``prefetched`` asynchronous copies, which
    go on while others compute; ``collectives`` kind -> [count, bytes];
    ``scopes`` (module, pass) -> (cycles, bytes). ``unknown_loops`` are loops without a
    known trip count, counted once.
    """

    cycles: int = 0
    bytes: int = 0
    bytes_once: int = 0  # every loop's body once, as XLA's own cost analysis counts
    unestimated: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    prefetched: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    collectives: dict[str, list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0])
    )
    scopes: dict[tuple[str, str], tuple[int, int]] = field(
        default_factory=lambda: defaultdict(lambda: (0, 0))
    )
    unknown_loops: list[str] = field(default_factory=list)

    @property
    def unestimated_share(self) -> float:
        """Of all bytes, those of instructions without an estimate."""
        return sum(self.unestimated.values()) / max(self.bytes, 1)

    def costliest(self, count: int = 10) -> list[tuple[str, str, int, int]]:
        """(module, pass, cycles, bytes) of the scopes with the most cycles."""
        rows = [(m, way, *value) for (m, way), value in self.scopes.items()]
        return sorted(rows, key=lambda row: row[2], reverse=True)[:count]


def shape_bytes(text: str) -> int:
    """Of all arrays in an HLO shape: 'bf16[4,8]{1,0}' -> 64."""
    total = 0
    for dtype, dims in SHAPE.findall(text):
        size = BYTES.get(dtype, 0)
        for n in filter(None, dims.split(",")):
            size *= int(n)
        total += size
    return total


def _closing(text: str, start: int) -> int:
    """The index after the parenthesis that closes the one at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i + 1
    return len(text)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _instruction(line: str) -> Instruction | None:
    head, separator, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    if not separator or not head.startswith("%"):
        return None
    end = _closing(rest, 0) if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    end = _closing(rest, len(opcode))
    operands, attributes = rest[len(opcode) + 1 : end - 1], rest[end:]
    called = {
        key: [name.strip(" %") for name in names.strip("{}").split(",")]
        for key, names in CALLED.findall(attributes)
    }
    value = operands if opcode == "constant" and operands.isdigit() else ""
    number = operands if opcode == "parameter" else ""
    index = _found(r"index=(\d+)", attributes) if opcode == "get-tuple-element" else ""
    cycles = _found(r'"estimated_cycles":"(\d+)"', attributes)
    trips = _found(r'"known_trip_count":\{"n":"(\d+)"', attributes)
    return Instruction(
        name=head.strip("%"),
        opcode=opcode,
        shape=shape,
        size=shape_bytes(shape),
        operands=tuple(re.findall(r"%([\w.\-]+)", operands)),
        called=called,
        op_name=_found(r'op_name="([^"]*)"', attributes),
        cycles=int(cycles) if cycles else None,
        trips=int(trips) if trips else None,
        target=_found(r'custom_call_target="([^"]*)"', attributes),
        direction=_found(r"direction=(\w+)", attributes),
        index=int(index) if index else None,
        value=int(value) if value else None,
        number=int(number) if number else None,
        root=line.lstrip().startswith("ROOT "),
    )


def parse(text: str) -> Program:
    """Read the text of ``compiled.as_text()``.

    Raises:
      ValueError: there is no entry computation in it.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            instruction = _instruction(line)
            if instruction:
                current[instruction.name] = instruction
    if not entry:
        raise ValueError("the text has no ENTRY computation; is it compiled HLO?")
    return Program(computations, entry)


def _parts(op_name: str) -> Iterator[str]:
    """The parts of an operation's name; a slash within parentheses parts nothing."""
    depth, word = 0, ""
    for letter in op_name:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "/" and depth == 0:
            yield word
            word = ""
        else:
            word += letter
    yield word


def _unwrapped(part: str) -> str:
    """'transpose(jvp(loss))' -> 'loss'."""
    while match := WRAPPED.match(part):
        part = match[1]
    return part


def scope(op_name: str, depth: int = 2) -> tuple[str, str]:
    """(module, pass) of an operation: ("decoder/block4", "backward").

    ``jit(f)/transpose(jvp(Segmenter))/decoder/block4/conv1/dot_general``
    lies in decoder/block4, in the backward pass. What lies in no module and no
    ``jax.named_scope`` is "step".
    """
    direction = "backward" if "transpose(" in op_name else "forward"
    # The first part is the function's, the last the primitive's.
    parts = [_unwrapped(part) for part in list(_parts(op_name))[1:-1]]
    parts = [part for part in parts if not NO_MODULE.fullmatch(part)]
    return "/".join(parts[:depth]) or "step", direction


def account(program: Program, scope_depth: int = 2) -> Account:
    """Add up a program; what runs on one device in one step."""
    return _account(program, program.entry, scope_depth)


def _account(program: Program, name: str, depth: int) -> Account:
    """Of one computation."""
    total = Account()
    for instruction, around, times in executed(program, name, total.unknown_loops):
        _add(instruction, around, times, total, depth)
        for fused in instruction.called.get("calls", ()):  # a fusion may hold some
            _add_collectives(program.computations[fused], times, total)
    return total


def executed(
    program: Program, name: str, unknown_loops: list[str]
) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
    """What a computation runs: (instruction, those around it, how often).

    Of branches the costliest; of ``unknown_loops``, which are added to the list, the
    body once; nothing that moves no data.
    """
    instructions = program.computations[name]
    for instruction in instructions.values():
        opcode = instruction.opcode
        if opcode == "while":
            trips = _trips(program, instructions, instruction)
            if trips is None:
                unknown_loops.append(instruction.name)
            (body,) = instruction.called["body"]
            for inner, around, times in executed(program, body, unknown_loops):
                yield inner, around, times * (trips or 1)
        elif opcode in ("call", "conditional", "async-start"):
            names = [n for found in instruction.called.values() for n in found]
            yield from executed(program, _costliest(program, names), unknown_loops)
        elif not _is_free(instruction):
            yield instruction, instructions, 1


def _trips(program: Program, around: dict, loop: Instruction) -> int | None:
    """How often a loop's body runs, or None.

    The TPU compiler's text says so only in the condition, "counter < constant"; JAX's
    own loops count from 0 by 1.
    """
    if loop.trips is not None:
        return loop.trips
    (name,) = loop.called["condition"]
    condition = program.computations[name]
    (root,) = (i for i in condition.values() if i.root)
    if root.opcode != "compare" or root.direction != "LT" or len(root.operands) != 2:
        return None
    counter, limit = (condition.get(operand) for operand in root.operands)
    carried = around.get(loop.operands[0])
    if counter is None or counter.index is None or limit is None or carried is None:
        return None
    start = around.get(carried.operands[counter.index])
    while start is not None and start.opcode in ("copy", "bitcast"):
        start = around.get(start.operands[0])
    return limit.value if start is not None and start.value == 0 else None


def _costliest(program: Program, names: Iterable[str]) -> str:
    """Of branches the one with the most cycles; of one callee, itself."""
    return max(names, key=lambda name: _account(program, name, 1).cycles)


def _is_free(instruction: Instruction) -> bool:
    opcode = instruction.opcode
    return (
        opcode in FREE or opcode.endswith("-done") or instruction.target in FREE_CALLS
    )


def _moved(instruction: Instruction, read: int) -> int:
    """Bytes read and written by an instruction whose operands have ``read`` bytes."""
    size = instruction.size
    if instruction.opcode in ("copy-start", "slice-start"):
        return 2 * (size - read)  # the result is (operand, what was copied, context)
    if instruction.opcode in ("slice", "dynamic-slice", "gather"):
        return 2 * size  # of the operand only what is wanted
    return read + size


def _add_collectives(known, times: int, total: Account, only=None) -> None:
    for instruction in known.values() if only is None else only:
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            read = (known[name].size for name in instruction.operands if name in known)
            total.collectives[kind][0] += times
            total.collectives[kind][1] += times * sum(read)


def largest_collectives(program: Program) -> dict[str, tuple[int, int]]:
    """Kind -> (number of instructions, bytes of the largest one's result)."""
    found: dict[str, tuple[int, int]] = {}
    for computation in program.computations.values():
        for instruction in computation.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                count, largest = found.get(kind, (0, 0))
                found[kind] = (count + 1, max(largest, instruction.size))
    return found


def _add(instruction, known, times: int, total: Account, depth) -> None:
    read = sum(known[name].size for name in instruction.operands if name in known)
    moved = _moved(instruction, read)
    total.bytes += times * moved
    total.bytes_once += moved
    _add_collectives(known, times, total, [instruction])
    kind = instruction.opcode.removesuffix("-start")
    if instruction.opcode in PREFETCHES:
        total.prefetched[kind] += times * moved
        return
    if instruction.cycles is None:
        total.unestimated[instruction.target or kind] += times * moved
        return
    total.cycles += times * instruction.cycles
    where = scope(instruction.op_name, depth)
    cycles, size = total.scopes[where]
    total.scopes[where] = (cycles + times * instruction.cycles, size + times * moved)


def as_json(total: Account) -> dict[str, Any]:
    """Plain values of an account."""
    return {
        "cycles": total.cycles,
        "bytes_read_and_written": total.bytes,
        "bytes_without_estimate": dict(
            sorted(total.unestimated.items(), key=lambda item: -item[1])
        ),
        "share_without_estimate": total.unestimated_share,
        "bytes_prefetched": dict(total.prefetched),
        "collectives": {
            kind: {"count": count, "bytes": size}
            for kind, (count, size) in sorted(total.collectives.items())
        },
        "unknown_loops": total.unknown_loops,
        "costliest_scopes": [
            {"module": module, "pass": way, "cycles": cycles, "bytes": size}
            for module, way, cycles, size in total.costliest()
        ],
    }
