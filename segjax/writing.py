"""Files of a workdir: written whole or not at all, with errors that say where."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong inside (a full disk, no permission) into one line.

    Raises:
      OSError: names ``path``, which the system's own error may not do.
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}); make room or "
            "change its permissions, and start the same command again"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece: the one before stays until this one is whole.

    Raises:
      OSError: one line that names the file.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path):
        try:
            # A new file: not what a link of that name may lead to.
            temporary.unlink(missing_ok=True)
            with temporary.open("x", encoding="utf-8") as file:
                file.write(text)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
