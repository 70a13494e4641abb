"""From a config to the parts of a run: data, model, optimizer, mesh, steps.

With the commands, the only reader of a config's keys.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from segjax import checkpoint, sharding
from segjax import config as configs
from segjax import step as steps
from segjax.augment import Augment
from segjax.batch import Batch, ClassSpec, LabelSpec, Source
from segjax.config import Config
from segjax.data import open_source, pipeline
from segjax.optim import OPTIONS as OPTIM_OPTIONS
from segjax.optim import make_optimizer, make_schedule
from segjax.preprocessing import Preprocessing, pair
from segjax.tasks import TASKS, Task
from segjax.writing import write_text


def data_options(config: Config) -> dict[str, Any]:
    """What ``segjax.data.open_source`` takes beside name, split and root."""
    name, task = config.data.name, TASKS[config.task]
    options = config.data[name].to_dict() if name in config.data else {}
    if name == "shapes":
        options["image_size"] = pair(config.data.image_size)
    if configs.is_used(config, "data.channels"):
        options["channels"] = config.data.channels
    if name == "tfds" and task is not TASKS["segmentation"]:
        del options["classes"]  # of masks
    return options | task.source_options(config) | {"task": config.task}


def open_split(config: Config, split: str, channels: int | None = None) -> Source:
    """The examples of a split of the config's dataset.

    ``channels``: of a run's images, which every split is read with where the config
    gives none; None: those of the split's first image.
    """
    options = data_options(config)
    if "channels" in options and options["channels"] is None:
        options["channels"] = channels
    if split == config.data.train_split:
        options["subset"] = config.data.subset
    return open_source(config.data.name, split, root=config.data.root, **options)


def num_steps(config: Config, num_examples: int) -> int:
    """The run's length in steps."""
    if config.steps is not None:
        return config.steps
    return math.ceil(config.epochs * num_examples / config.data.batch_size)


def event_steps(config: Config, every: float | None, num_examples: int) -> set[int]:
    """The steps after which an event is due; ``every`` is in the run's unit.

    The end of the run is always one of them.
    """
    last = num_steps(config, num_examples)
    if every is None:
        return {last}
    unit = 1.0 if config.steps is not None else num_examples / config.data.batch_size
    count = int(last / (every * unit) + 1e-9)
    return {math.ceil(i * every * unit - 1e-9) for i in range(1, count + 1)} | {last}


def make_mesh(config: Config, devices: Sequence[Any] | None = None) -> Mesh:
    """The config's mesh over all devices, or these; the batch must be divisible."""
    mesh = sharding.make_mesh(**config.mesh.to_dict(), devices=devices)
    sharding.check_batch_size("config.data.batch_size", config.data.batch_size, mesh)
    parts = config.optim.accumulate * sharding.batch_parts(mesh)
    if config.data.batch_size % parts:
        raise ValueError(
            f"config.data.batch_size={config.data.batch_size} cannot be split into "
            f"config.optim.accumulate={config.optim.accumulate} parts on "
            f"{sharding.batch_parts(mesh)} devices; use a multiple of {parts}"
        )
    return mesh


def param_dtype(config: Config):
    """Of parameters and logits: float64 for a float64 run, else float32."""
    return jnp.float64 if config.model.dtype == "float64" else jnp.float32


def norm_groups(config: Config, mesh: Mesh) -> int:
    """Into how many groups batch norm cuts the batch; in each, its own statistics.

    Raises:
      ValueError: config.model.norm_group is no word it knows and no number of devices
        that divides theirs.
    """
    group, devices = config.model.norm_group, sharding.batch_parts(mesh)
    size = {"all": devices, "device": 1}.get(group, group)
    if not isinstance(size, int) or size < 1 or devices % size:
        raise ValueError(
            f"config.model.norm_group={group!r} is none of all, device, or a number "
            f"that divides the {devices} devices of the batch"
        )
    return devices // size


def make_model(
    config: Config,
    num_classes: int,
    channels: int,
    platform: str | None,
    groups: int = 1,
    spatial: int = 1,
) -> Any:
    """The config's network; ``groups``: :func:`norm_groups`.

    ``spatial``: over how many devices image rows are split.
    """
    options = {}
    for name in ("output_stride", "upsampling", "drop_path"):
        if config.model[name] is not None:
            options[name] = config.model[name]
    return TASKS[config.task].build(
        config,
        num_classes,
        in_channels=channels,
        like=config.model.like,
        platform=platform,
        dtype=jnp.dtype(config.model.dtype),
        param_dtype=param_dtype(config),
        norm=config.model.norm,
        norm_groups=groups,
        remat=config.model.remat,
        spatial=spatial,
        **options,
    )


def make_loss(
    config: Config, spec: LabelSpec | ClassSpec, platform: str | None = None
) -> Any:
    """The config's loss, for a platform.

    Raises:
      ValueError: an unknown name, or not one class weight per class.
    """
    return TASKS[config.task].loss(config, spec, platform)  # type: ignore[arg-type]


def make_tx(
    config: Config, total_steps: int
) -> tuple[optax.GradientTransformation, Callable]:
    """The config's optimizer and its learning rate as a function of the step."""
    optim = config.optim
    schedule = make_schedule(
        optim.schedule,
        lr=optim.lr,
        steps=total_steps,
        warmup_steps=optim.warmup_steps,
        power=optim.power,
        end_factor=optim.end_factor,
        milestones=optim.milestones,
        gamma=optim.gamma,
    )
    options = {key: optim[key] for key in OPTIM_OPTIONS[optim.name]}
    options["lr_multipliers"] = optim.lr_multipliers.to_dict()
    tx = make_optimizer(optim.name, schedule, **options)
    return tx, schedule


def make_augment(config: Config, pre: Preprocessing) -> Augment:
    """The config's augmentation.

    Raises:
      ValueError: colours are changed of images that are not RGB.
    """
    for key in ("saturation", "hue"):
        if config.augment[key] and pre.channels != 3:
            raise ValueError(
                f"config.augment.{key}={config.augment[key]} is for RGB, but the "
                f"images have {pre.channels} channels; leave it out"
            )
    crops = ("scale", "cutmix", "crop_area", "crop_aspect", "shorter_side")
    options = {k: v for k, v in config.augment.to_dict().items() if k not in crops}
    options |= TASKS[config.task].crop(config)
    return Augment(out_size=pre.image_size, mean=pre.mean, std=pre.std, **options)


@dataclass(frozen=True)
class Parts:
    """What training and evaluation share: everything but the data's order."""

    config: Config
    spec: LabelSpec | ClassSpec
    pre: Preprocessing
    mesh: Mesh
    model: Any
    loss: Any

    @property
    def task(self) -> Task:
        """What is learnt."""
        return TASKS[self.config.task]

    @property
    def dtype(self):
        """Of the images that enter the network."""
        return param_dtype(self.config)

    def _train_options(self) -> dict[str, Any]:
        """Of a training step: the network and the rest of the step's arguments."""
        config, mesh = self.config, self.mesh
        return {
            "model": make_model(
                config,
                self.spec.num_classes,
                self.pre.channels,
                sharding.platform(mesh),
                # Of training alone: a run is evaluated on any number of devices.
                norm_groups(config, mesh),
                mesh.shape["spatial"],
            ),
            "loss": self.loss,
            "augment": make_augment(config, self.pre),
            "num_classes": self.spec.num_classes,
            "accumulate": config.optim.accumulate,
            "aux_weight": config.loss[self.task.auxiliary],
            "count": self.task.count,
            "ema_decay": config.optim.ema_decay,
            "dtype": self.dtype,
        }

    def train_function(self, tx: optax.GradientTransformation) -> Callable:
        """The training step before jit (:func:`segjax.step.train_function`)."""
        platform = sharding.platform(self.mesh)
        return steps.train_function(tx=tx, platform=platform, **self._train_options())

    def train_step(self, tx: optax.GradientTransformation, shardings) -> Callable:
        """The jitted training step (:func:`segjax.step.make_train_step`).

        ``shardings`` are those of the state (:meth:`abstract_state`).
        """
        return steps.make_train_step(
            tx=tx,
            mesh=self.mesh,
            state_shardings=shardings,
            seed=self.config.seed,
            **self._train_options(),
        )

    def eval_step(self) -> Callable:
        """The jitted evaluation step of the task."""
        return self.task.eval_step(
            self.model, self.loss, self.mesh, self.spec, self.pre, self.dtype
        )

    def init(self, tx: optax.GradientTransformation) -> Callable[[jax.Array], Any]:
        """The function key -> fresh TrainState; not jitted yet."""
        return lambda key: steps.init_state(
            self.model,
            tx,
            key,
            (*self.pre.image_size, self.pre.channels),
            ema=self.config.optim.ema_decay is not None,
            dtype=self.dtype,
        )

    def abstract_state(self, tx: optax.GradientTransformation):
        """Shapes, dtypes and shardings of the state; allocates nothing."""
        shapes = jax.eval_shape(self.init(tx), jax.random.key(0))
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=where
            ),
            shapes,
            sharding.state_sharding(shapes, self.mesh),
        )


def make_parts(
    config: Config,
    spec: LabelSpec | ClassSpec,
    pre: Preprocessing,
    devices: Sequence[Any] | None = None,
) -> Parts:
    """Mesh, model and loss for a config and what its data is like.

    ``devices`` None: the config's mesh over all; else these, whatever it says.
    """
    if devices is None:
        mesh = make_mesh(config)
    else:
        mesh = sharding.make_mesh(devices=devices)
    return assemble(config, spec, pre, mesh)


def assemble(
    config: Config, spec: LabelSpec | ClassSpec, pre: Preprocessing, mesh: Mesh
) -> Parts:
    """Model and loss for a mesh."""
    if config.model.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "config.model.dtype=float64 needs JAX_ENABLE_X64=1 in the environment"
        )
    platform = sharding.platform(mesh)
    model = make_model(
        *(config, spec.num_classes, pre.channels, platform),
        spatial=mesh.shape["spatial"],
    )
    return Parts(config, spec, pre, mesh, model, make_loss(config, spec, platform))


def save_description(workdir: Path, parts: Parts) -> None:
    """Write config.json and labels.json: with them a workdir needs no dataset."""
    labels = parts.spec.to_dict() | {"preprocessing": parts.pre.to_dict()}
    texts = {"labels.json": json.dumps(labels, indent=2)}
    # The config last: where it is, the workdir is one to resume.
    texts["config.json"] = configs.to_json(parts.config)
    for name, text in texts.items():
        write_text(workdir / name, text + "\n")


# Of how images are prepared, which labels.json says of a trained network.
_PREPARED = ("data.fit", "data.image_size", "data.mean", "data.std")


def load_parts(
    workdir: Path,
    overrides: list[str],
    devices: Sequence[Any] | None = None,
) -> Parts:
    """The parts of the run in a workdir.

    Raises:
      ValueError: it is not a run's workdir, or labels.json is damaged, or an override
        is of how images are prepared, which is as it was in training.
    """
    for name in ("config.json", "labels.json"):
        if not (workdir / name).is_file():
            raise ValueError(f"--workdir {workdir}: no {name}; is it a run's folder?")
    text = (workdir / "config.json").read_text()
    config, trained = configs.from_json(text), configs.from_json(text)
    configs.override(config, overrides)
    configs.validate(config)
    for key in configs.differences(trained, config):
        # The size of a rendered scene is the data's own.
        own = key == "data.image_size" and config.data.name == "shapes"
        if key in _PREPARED and not own:
            raise ValueError(
                f"--config.{key}: a trained network sees images prepared as it was "
                f"trained, by {workdir / 'labels.json'}; train another run for that"
            )
    try:
        labels = json.loads((workdir / "labels.json").read_text(encoding="utf-8"))
        pre = Preprocessing.from_dict(labels["preprocessing"])
        spec = TASKS[config.task].spec.from_dict(labels)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{workdir / 'labels.json'} is damaged ({type(error).__name__}: {error}); "
            "copy it from another run of the same config and data"
        ) from None
    return make_parts(config, spec, pre, devices)


def train_batches(
    config: Config, source: Source, start_step: int, mesh: Mesh | None = None
) -> Iterator[Batch]:
    """The endless stream of training batches: the share of this process of the mesh.

    ``mesh`` None: whole batches.
    """
    share = sharding.Share(0, 1, True) if mesh is None else sharding.batch_share(mesh)
    return pipeline.train_batches(
        source,
        seed=config.seed,
        start_step=start_step,
        batch_size=config.data.batch_size,
        buffer=train_buffer(config, source),
        fit=config.data.fit,
        process_index=share.index,
        process_count=share.count,
        threads=config.data.threads,
        workers=config.data.workers,
        cache_bytes=int(config.data.cache_gb * 2**30),
    )


def train_buffer(config: Config, source: Source) -> tuple[int, int]:
    """(H, W) of the host buffer that every training image travels in."""
    if config.data.fit == "resize":
        return pair(config.data.image_size)
    if config.data.buffer_size is not None:
        return pair(config.data.buffer_size)
    sizes = [source.size(i) for i in range(len(source))]
    return max(h for h, _ in sizes), max(w for _, w in sizes)


def abstract_variables(parts: Parts):
    """Shapes and shardings of ``params`` and ``batch_stats``."""
    state = parts.abstract_state(optax.identity())
    return {"params": state.params, "batch_stats": state.batch_stats}


def check_workdir(config: Config, workdir: Path) -> bool:
    """Whether a run was begun there.

    Raises:
      ValueError: a run that this config cannot go on with.
    """
    path = workdir / "config.json"
    if path.is_file():
        configs.check_resumable(config, path.read_text(), f"--workdir {workdir}")
    return path.is_file()


def checkpoint_directory(config: Config, workdir: Path) -> str:
    """Where the run's checkpoints are."""
    return str(config.checkpoint.directory or workdir / "checkpoints")


def restore_variables(parts: Parts, workdir: Path, which: str) -> tuple[Any, int]:
    """The variables of a run's checkpoint, averaged where it kept averages.

    Args:
      which: "best" (by mIoU on the evaluation split), "latest" or a step.

    Raises:
      ValueError: there is no such checkpoint.
    """
    place = parts.config.checkpoint.directory or workdir
    folder = checkpoint.find_step(place, which, parts.task.metric)
    variables = checkpoint.restore_params(
        str(folder),
        abstract_variables(parts),
        ema=parts.config.optim.ema_decay is not None,
    )
    return {"batch_stats": {}} | variables, int(folder.name)
