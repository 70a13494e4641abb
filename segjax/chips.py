"""The TPU chips that programs can be planned for, and their published peak rates.

Sources: Google Cloud's "TPU v4", "v5e", "v5p" and "v6e" system architecture pages (peak
bfloat16 FLOP/s, HBM size and bandwidth per chip). The clocks are not all published;
they follow from the peak and the matrix units, FLOP/s / (2 x multiply-adds per cycle):
v4 two cores of 4 x 128x128, v5e one of 4 x 128x128, v5p two of 4 x 128x128, v6e one of
4 x 256x256.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """What one JAX device of the chip can do.

    ``flops`` is peak bfloat16 FLOP/s, ``hbm`` bytes, ``bandwidth`` bytes/s, ``clock``
    cycles/s; ``per_chip`` JAX devices are one chip (a v4 shows its two cores).
    """

    name: str
    flops: float
    hbm: float
    bandwidth: float
    clock: float
    per_chip: int = 1


# By the prefix of a topology's name.
CHIPS = {
    "v4": Chip("TPU v4", 275e12 / 2, 32 * 2**30 / 2, 1228e9 / 2, 1.05e9, per_chip=2),
    "v5e": Chip("TPU v5e", 197e12, 16 * 2**30, 819e9, 1.5e9),
    "v5p": Chip("TPU v5p", 459e12, 95 * 2**30, 2765e9, 1.75e9),
    "v6e": Chip("TPU v6e", 918e12, 32 * 2**30, 1640e9, 1.75e9),
}


def chip_of(topology: str) -> Chip:
    """The chip of a topology's name: "v5e:4x4" -> TPU v5e.

    Raises:
      ValueError: the name has another form, or the chip is not known.
    """
    kind, separator, size = topology.partition(":")
    if kind not in CHIPS:
        raise ValueError(
            f"--topology {topology}: the chip {kind!r} is not one of "
            f"{', '.join(CHIPS)}; write for instance v5e:4x4"
        )
    if not separator or not all(part.isdigit() for part in size.split("x")):
        raise ValueError(
            f"--topology {topology}: write the chip and its grid, as v5e:4x4 or "
            "v4:2x2x1"
        )
    return CHIPS[kind]
