"""What a command writes into --output: whole or not at all, and nowhere else."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segjax.writing import writing


def save(output: Path, name: str, write: Callable[[Path], Any]) -> None:
    """Have ``<output>/<name>`` written, whole or not at all, and nowhere else.

    Raises:
      ValueError: a link in ``output`` leads out of it.
      OSError: one line that names the file.
    """
    target = output / name
    root, real = os.path.realpath(output), os.path.realpath(target.parent)
    if os.path.commonpath((root, real)) != root:
        raise ValueError(f"{target}: a link leads out of --output; take it away")
    # Beside it and then moved: a link of the target's name is replaced, not followed.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            write(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(output: Path, name: str, about: Mapping[str, Any]) -> None:
    """Write plain values as ``<output>/<name>``."""
    text = json.dumps(about, indent=2) + "\n"
    save(output, name, lambda path: path.write_text(text))


def raise_failed(failed: Sequence[dict[str, str]], done: int, path: Path) -> None:
    """Name what failed, if anything did; ``path`` has it all.

    Raises:
      ValueError: something failed.
    """
    if failed:
        texts = [entry["error"] for entry in failed]
        more = f"; and others: see 'failed' in {path}"
        raise ValueError(
            f"{len(failed)} of {len(failed) + done} files failed: "
            f"{'; '.join(texts[:10])}{more * (len(texts) > 10)}"
        )
