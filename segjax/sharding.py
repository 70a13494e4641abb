"""Where arrays live: the device mesh, and the shardings of batches and of the state.

The mesh has three axes. ``data`` and ``fsdp`` both split the batch; ``fsdp`` also
splits large parameters and their optimizer state; ``spatial`` splits image rows. With
``jit`` and global arrays every reduction (loss, batch statistics, metrics) is over the
global batch, so a run means the same on any mesh.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from segjax.batch import Batch

T = TypeVar("T")

AXES = ("data", "fsdp", "spatial")
BATCH_AXES = ("data", "fsdp")

# Below this many elements a parameter stays whole on every device: the all-gather of a
# small array costs latency and saves nothing.
FSDP_MIN_SIZE = 2**14


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    spatial: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh with axes (data, fsdp, spatial); ``data = -1`` takes the devices left.

    Raises:
      ValueError: the axes' product is not the number of devices, or images are split
        unevenly over processes.
    """
    devices = list(jax.devices() if devices is None else devices)
    if fsdp < 1 or spatial < 1 or (data < 1 and data != -1):
        raise ValueError(
            f"mesh.data={data}, mesh.fsdp={fsdp}, mesh.spatial={spatial}: axes are "
            "positive; only mesh.data may be -1 (all devices that are left)"
        )
    if data == -1:
        data = max(len(devices) // (fsdp * spatial), 1)
    if data * fsdp * spatial != len(devices):
        raise ValueError(
            f"mesh.data={data} x mesh.fsdp={fsdp} x mesh.spatial={spatial} = "
            f"{data * fsdp * spatial}, but there are {len(devices)} devices; choose "
            "axes whose product is the number of devices (mesh.data=-1 does it)"
        )
    # A process loads one piece of a batch: its devices have to lie together.
    devices.sort(key=lambda device: (device.process_index, device.id))
    placed = np.asarray(devices).reshape(data, fsdp, spatial)
    share_of(devices[0].process_index, placed)
    return Mesh(placed, AXES)


class Share(NamedTuple):
    """What a process loads of a batch: the ``index``-th of ``count`` equal parts.

    ``leads``: of the processes with this part (whose devices hold the rows of the same
    images) it is the first, and speaks for them.
    """

    index: int
    count: int
    leads: bool


def batch_share(mesh: Mesh) -> Share:
    """The share of this process."""
    return share_of(jax.process_index(), mesh.devices)


def share_of(process: int, devices: np.ndarray) -> Share:
    """The share of a process, of whose devices some are in object[..., spatial].

    Raises:
      ValueError: some images lie in this and another process, and some do not.
    """
    rows = devices.reshape(-1, devices.shape[-1])
    owners = [tuple(sorted({d.process_index for d in row})) for row in rows]
    parts = [(part, len(list(same))) for part, same in groupby(owners)]
    members = [member for part, _ in parts for member in part]
    if len(set(members)) < len(members) or len({length for _, length in parts}) > 1:
        raise ValueError(
            f"mesh.spatial={devices.shape[-1]} splits images unevenly over processes; "
            "use a number that divides the devices of one process, or a multiple of it"
        )
    index = next(i for i, (part, _) in enumerate(parts) if process in part)
    return Share(index, len(parts), parts[index][0][0] == process)


def platform(mesh: Mesh) -> str:
    """The platform of the mesh's devices: 'cpu', 'tpu' or 'gpu'."""
    return mesh.devices.flat[0].platform


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts the batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Refuse a batch size that the devices do not divide.

    Raises:
      ValueError: with the nearest sizes that would do.
    """
    parts = batch_parts(mesh)
    if batch_size < 1 or batch_size % parts:
        down = batch_size // parts * parts
        near = " or ".join(str(n) for n in (down, down + parts) if n > 0)
        raise ValueError(
            f"{name}={batch_size} cannot be split over {parts} devices "
            f"(mesh.data x mesh.fsdp); use {near}"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, P(BATCH_AXES))


def image_sharding(mesh: Mesh) -> NamedSharding:
    """Examples over ``data`` and ``fsdp``, image rows over ``spatial``."""
    return NamedSharding(mesh, P(BATCH_AXES, "spatial"))


def spread(images: jax.Array, labels: jax.Array, mesh: Mesh):
    """The two, inside jit, as :func:`image_sharding`; int[B] labels have no rows."""
    rows = image_sharding(mesh) if labels.ndim > 1 else batch_sharding(mesh)
    return (
        jax.lax.with_sharding_constraint(images, image_sharding(mesh)),
        jax.lax.with_sharding_constraint(labels, rows),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def gathered(params, mesh: Mesh):
    """Inside jit: parameters, whole on every device where ``fsdp`` meets ``spatial``.

    XLA gathers parameters by itself where they are used. Of a convolution whose kernel
    is split by one axis and whose rows by another it makes a wrong one: SegNet-Basic's
    first gradient on 16x16 images had a norm of 0.57 instead of 3.56 (jax 0.10.2).
    """
    if min(mesh.shape["fsdp"], mesh.shape["spatial"]) == 1:
        return params
    return jax.lax.with_sharding_constraint(params, replicated(mesh))


def _leaf_spec(shape: tuple[int, ...], parts: int) -> P:
    if parts == 1 or int(np.prod(shape)) < FSDP_MIN_SIZE:
        return P()
    fitting = [axis for axis, n in enumerate(shape) if n % parts == 0]
    if not fitting:
        return P()
    longest = max(fitting, key=lambda axis: shape[axis])
    return P(*["fsdp" if axis == longest else None for axis in range(len(shape))])


def state_sharding(abstract_state, mesh: Mesh):
    """A tree of shardings for the state: large arrays over ``fsdp``, the rest whole.

    The rule sees shapes only, so a parameter, its EMA and its moments agree.
    """
    parts = mesh.shape["fsdp"]
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, _leaf_spec(leaf.shape, parts)), abstract_state
    )


def to_devices(batch: Batch, mesh: Mesh):
    """Make the global batch out of each process's rows of it."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value)
        for key, value in batch.items()
    }


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """Each item once the next is made: devices work on it while the host takes this."""
    held: list[T] = []
    for item in items:
        yield from held
        held = [item]
    yield from held


def on_devices(
    batches: Iterable, mesh: Mesh, stall: Callable[[], Any], ahead: int = 2
) -> Iterator:
    """Batches on the mesh, ``ahead`` of them under way while the devices compute.

    ``stall()`` is a context in which the next batch is waited for.
    """
    batches, queue = iter(batches), deque()
    while True:
        while len(queue) <= ahead:
            with stall():
                batch = next(batches)
            queue.append(to_devices(batch, mesh))
        yield queue.popleft()
