"""Many dotted names in one readable line, as a shell's braces write them."""

from collections.abc import Iterable

FEW = 3


def braces(names: Iterable[str]) -> str:
    """All of the names; more than a few share what they have in common.

    ``layer{1,2}.{0-3}.bn1.{bias,weight}`` stands for 16 names.
    """
    names = list(dict.fromkeys(names))
    if len(names) <= FEW:
        return ", ".join(names)
    tree: dict = {}
    for name in names:
        node = tree
        for part in name.split("."):
            node = node.setdefault(part, {})
        node[""] = {}  # a name ends here: "a" and "a.b" may both be one
    return ", ".join(_write(tree))


def _write(tree: dict) -> list[str]:
    """One text for each group of children that continue alike."""
    groups: dict[str, list[str]] = {}
    for part, below in tree.items():
        if "" in below:
            groups.setdefault("", []).append(part)
        inner = _write({key: value for key, value in below.items() if key})
        if inner:
            rest = inner[0] if len(inner) == 1 else "{" + ",".join(inner) + "}"
            groups.setdefault(f".{rest}", []).append(part)
    return [
        (parts[0] if len(parts) == 1 else "{" + ",".join(_ranges(parts)) + "}") + rest
        for rest, parts in groups.items()
    ]


def _ranges(parts: list[str]) -> list[str]:
    """Numbers that follow each other as first-last."""
    numbers = sorted(int(part) for part in parts if part.isdecimal())
    found = [part for part in parts if not part.isdecimal()]
    start = 0
    for i, number in enumerate(numbers):
        if i + 1 < len(numbers) and numbers[i + 1] == number + 1:
            continue
        run = numbers[start : i + 1]
        found += [f"{run[0]}-{number}"] if len(run) > 2 else map(str, run)
        start = i + 1
    return found
