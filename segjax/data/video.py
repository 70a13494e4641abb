"""The frames of a video file, by PyAV (the extra ``[video]``)."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np

EXTENSIONS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
"""The file name endings, in lower case, that count as videos."""


def is_video(path: Path) -> bool:
    """Whether the file's name is a video's."""
    return path.suffix.lower() in EXTENSIONS


def library(path: Path) -> ModuleType:
    """PyAV.

    Raises:
      ValueError: it is not installed; names the extra.
    """
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"{path}: frames are read by PyAV, which is not installed; run "
            "pip install 'segjax[video]'"
        ) from None
    return av


def count_frames(path: Path, every: int = 1) -> int:
    """How many images a file gives, by a video's header: 1 where it does not say."""
    if not is_video(path):
        return 1
    av = library(path)
    try:
        with av.open(str(path)) as container:
            return max(1, -(-container.streams.video[0].frames // every))
    except (OSError, IndexError, ValueError):
        return 1


def read_frames(
    path: Path, every: int = 1
) -> Iterator[tuple[int, float | None, np.ndarray]]:
    """(number, seconds, uint8[h, w, 3]) of every so many-th frame, turned upright.

    Raises:
      ValueError: PyAV is missing, or the file is no video or damaged (after the frames
        before the damage).
    """
    av = library(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("it has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number % every:
                    continue
                pixels = frame.to_ndarray(format="rgb24")
                # Counter-clockwise degrees that a player turns the stored frame by.
                turned = np.rot90(pixels, round(frame.rotation / 90) % 4)
                seconds = None
                if frame.pts is not None and frame.time_base is not None:
                    seconds = float(frame.pts * Fraction(frame.time_base))
                yield number, seconds, np.ascontiguousarray(turned)
    # PyAV's errors are subclasses of these.
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path}: unreadable or truncated video ({reason}); restore the file or "
            "leave it out"
        ) from error
