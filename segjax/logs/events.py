"""TensorBoard events, written by the caller: errors are the caller's to tell.

tensorboardX's own writer has a thread, which a full disk ends with a traceback; the
run would then wait for ever for the thread to empty its queue.
"""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segjax.writing import writing


class Events:
    """An event file in ``folder``, which is made.

    Args:
      purge_step: TensorBoard forgets what earlier files say of this step and later
        ones; None: this is a new run.

    Raises:
      OSError: (by every method) it cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int | None = None):
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore

        # The file's name tells the second of its making: without the step a run that
        # resumes within it would write over what it wrote before.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self.path = folder / f"{name}.{purge_step or 0}"
        with writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb", buffering=0)
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(step=purge_step, file_version="brain.Event:2")
            self._write(step=purge_step, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point in each curve."""
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

        found = [Summary.Value(tag=k, simple_value=float(v)) for k, v in values.items()]
        if found:
            self._write(step=step, summary=Summary(value=found))

    def image(self, step: int, tag: str, picture: np.ndarray) -> None:
        """A picture uint8[h, w, 3]."""
        from tensorboardX.summary import image

        self._write(step=step, summary=image(tag, picture, dataformats="HWC"))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        """Append one event as a TFRecord: length, its checksum, data, its checksum."""
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore
        from tensorboardX.record_writer import masked_crc32c

        data = Event(wall_time=time.time(), **content).SerializeToString()
        header = struct.pack("<Q", len(data))
        sums = [struct.pack("<I", masked_crc32c(part)) for part in (header, data)]
        with writing(self.path):
            self._file.write(header + sums[0] + data + sums[1])
