"""Some of a source's examples: what a network learns from less."""

from __future__ import annotations

from collections.abc import Sequence

from segjax.batch import Example, Source


class Subset:
    """``count`` examples of a source, evenly spaced, in its order.

    Neighbours in a video look alike, so they are not the first ones.

    Raises:
      ValueError: the source has fewer.
    """

    def __init__(self, source: Source, count: int):
        if not 0 < count <= len(source):
            raise ValueError(
                f"config.data.subset={count}, but the split has {len(source)} "
                f"examples; write 1 to {len(source)}, or None for all"
            )
        self.source, self.spec, self.channels = source, source.spec, source.channels
        self.indices = [i * len(source) // count for i in range(count)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the example."""
        return self.source.size(self.indices[index])

    def ids(self) -> Sequence[str]:
        """The examples' ids, in order."""
        ids = self.source.ids()
        return [ids[i] for i in self.indices]
