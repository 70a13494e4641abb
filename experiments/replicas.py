"""Several seeds or learning rates of one small network, trained in one program.

    python -m experiments.replicas FILE --seeds 0 1 2 3 [--variant V] [--output JSON]
    python -m experiments.replicas FILE --rates 1e-3 3e-3 1e-2 [--config.KEY=VALUE ...]

FILE is a config or a study. Each replica is the run that `segjax train` would make with
that seed or rate on one device, up to rounding (segjax/replicas.py): in float32 that is
not bit for bit, so nothing is written into a study's results, and the JSON that is
written says how its numbers came about. Nothing is saved on the way: a killed group
begins anew.
"""

import argparse
import dataclasses
import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import statistics, study
from segjax import config as configs

NOTE = (
    "trained as replicas in one program: equal to runs trained alone up to rounding, "
    "not bit for bit"
)


@dataclasses.dataclass(frozen=True)
class Group:
    """Replicas by their seeds and learning rates; ``how``: see segjax.replicas."""

    config: configs.Config
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    how: str | None = None

    def of(self, index: int) -> configs.Config:
        """The config of the run that is replica ``index``."""
        config = self.config.copy_and_resolve_references()
        config.seed, config.optim.lr = self.seeds[index], self.rates[index]
        return config


def batches(group: Group, source) -> Iterator[list[Mapping[str, np.ndarray]]]:
    """Step by step the replicas' batches; those of one seed have the same."""
    from segjax import setup

    first = {seed: i for i, seed in reversed(list(enumerate(group.seeds)))}
    streams = {
        seed: setup.train_batches(group.of(index), source, 0)
        for seed, index in first.items()
    }
    while True:
        now = {seed: next(stream) for seed, stream in streams.items()}
        yield [now[seed] for seed in group.seeds]


def fresh_states(group: Group, parts, tx, mesh) -> Any:
    """The states that the runs would begin with, stacked."""
    import jax

    from segjax import replicas
    from segjax.step import stream_key
    from segjax.warm import warm_start

    init = jax.jit(parts.init(tx))
    states = []
    for seed in group.seeds:
        state = init(stream_key(seed, "init"))
        if group.config.model.pretrained is not None:
            state, _ = warm_start(parts, state)
        states.append(jax.device_get(state))
    return replicas.stack(states, mesh)


def train(group: Group, say=print) -> dict[str, Any]:
    """Train and score the replicas: what the JSON holds, but for its origin.

    Raises:
      ValueError: the config is refused, or its batch does not suit one device.
    """
    import jax

    from segjax import cache, replicas, setup, sharding
    from segjax.preprocessing import preprocessing

    cache.keep_compiled()
    config, count = group.config, len(group.seeds)
    source = setup.open_split(config, config.data.train_split)
    pre = preprocessing(config, source.channels)
    mesh = replicas.make_mesh(count)
    parts = setup.make_parts(config, source.spec, pre, [mesh.devices.flat[0]])
    total = setup.num_steps(config, len(source))
    tx, _ = setup.make_tx(config, total)
    how = group.how or replicas.formulation(mesh.devices.flat[0].platform)
    rates = np.asarray(group.rates) / config.optim.lr
    step = replicas.make_step(
        parts.train_function, tx, mesh, how, rates=bool((rates != 1).any())
    )
    states = fresh_states(group, parts, tx, mesh)
    seeds, factors = np.asarray(group.seeds, np.int32), rates.astype(parts.dtype)
    curve, skipped, start = [], np.zeros(count, int), 0.0

    def advance(rows):
        nonlocal states
        states, out = step(states, replicas.stack(rows, mesh), seeds, factors)
        return {key: out[key] for key in ("loss", "skipped")}

    outs = map(advance, itertools.islice(batches(group, source), total))
    for number, out in enumerate(sharding.one_behind(outs)):
        found = jax.device_get(out)
        curve.append(found["loss"].tolist())
        skipped = np.maximum(skipped, found["skipped"])
        if number == 0:
            start = time.monotonic()
        if (number + 1) % config.logs.every == 0 or number + 1 == total:
            losses = " ".join(f"{loss:.4f}" for loss in curve[-1])
            say(f"step {number + 1} of {total}: losses {losses}")
    seconds = time.monotonic() - start
    images = (total - 1) * count * config.data.batch_size
    score = scorer(parts)
    return {
        "note": NOTE,
        "formulation": how,
        "devices": mesh.size,
        "steps": total,
        "images_per_s": round(images / seconds, 1) if total > 1 else None,
        "replicas": [
            {
                "seed": group.seeds[index],
                "lr": group.rates[index],
                **score(replicas.unstack(states.variables(), index)),
                "most_skipped_in_a_row": int(skipped[index]),
                "losses": [row[index] for row in curve],
            }
            for index in range(count)
        ],
    }


def scorer(parts) -> Callable[[Any], dict[str, Any]]:
    """The evaluation: a replica's variables -> its scores."""
    import jax

    from segjax import logs, setup, sharding
    from segjax.evaluate import evaluate_split

    source = setup.open_split(
        parts.config, parts.config.data.eval_split, parts.pre.channels
    )
    eval_step = parts.eval_step()

    def score(variables) -> dict[str, Any]:
        variables = jax.device_put(variables, sharding.replicated(parts.mesh))
        summary, _ = evaluate_split(parts, eval_step, variables, source)
        return logs.plain(summary)

    return score


def read(args: argparse.Namespace, overrides: Sequence[str]) -> Group:
    """The group that the flags ask for.

    Raises:
      ValueError: flags that contradict each other, or a config that is refused.
    """
    given = list(overrides)
    if args.variant is not None:
        made = study.load(args.file)
        if args.variant not in made.variants:
            raise ValueError(
                f"--variant {args.variant}: {made.path} has {', '.join(made.variants)}"
            )
        given = [*made.overrides(args.variant, 0), *given]
    config = configs.load(args.file, given)
    if config.mesh != configs.default().mesh:
        raise ValueError("config.mesh: a replica is whole on one device; leave it out")
    rates = tuple(args.rates or (config.optim.lr,))
    seeds = tuple(args.seeds or (config.seed,))
    if len(seeds) > 1 and len(rates) > 1:
        pairs = list(itertools.product(seeds, rates))
        seeds, rates = (tuple(side) for side in zip(*pairs, strict=True))
    count = max(len(seeds), len(rates))
    if count < 2:
        raise ValueError("one replica is a run: name two --seeds or --rates or more")
    if min(seeds) < 0 or max(seeds) >= 2**31 or min(rates) <= 0:
        raise ValueError("--seeds lie from 0 to below 2^31, and --rates above 0")
    return Group(
        config,
        seeds if len(seeds) == count else seeds * count,
        rates if len(rates) == count else rates * count,
        args.how,
    )


def told(result: Mapping[str, Any]) -> str:
    """The scores in words."""
    lines, metric = [], "miou" if "miou" in result["replicas"][0] else "top1"
    of_rate: dict[float, list[float]] = {}
    for line in result["replicas"]:
        score = line[metric]
        lines.append(f"seed {line['seed']}, lr {line['lr']:g}: {metric} {score:.4f}")
        of_rate.setdefault(line["lr"], []).append(score)
    for rate, values in of_rate.items():
        if len(values) > 1:
            found = statistics.spread(values)
            lines.append(
                f"lr {rate:g}: mean {found.mean:.4f}, SD {found.sd:.4f}, 95 % interval "
                f"{found.low:.4f} to {found.high:.4f}"
            )
    speed = result["images_per_s"]
    lines.append(f"{speed} images/s of all replicas; {result['note']}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.replicas",
        description=(__doc__ or "").split("\n")[0],
        epilog="--config.KEY=VALUE changes the config, as of segjax train",
    )
    parser.add_argument("file", help="a config or a study")
    parser.add_argument("--variant", help="of a study")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED")
    parser.add_argument("--rates", nargs="+", type=float, metavar="LR", help="of optim")
    parser.add_argument("--how", choices=("vmap", "loop"), help="default: by platform")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args, rest = _parser().parse_known_args(arguments)
    try:
        for flag in rest:
            if not flag.startswith("--config."):
                raise ValueError(f"{flag} is no flag of this command; see --help")
        group = read(args, rest)
        stem = "-".join([Path(args.file).stem, *([args.variant] * bool(args.variant))])
        path = args.output or Path("runs", "replicas", f"{stem}.json")
        # What cannot be written is told before the training.
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.tmp").touch()
        path.with_name(f"{path.name}.tmp").unlink()
        result = train(group, lambda text: print(text, flush=True))
        from segjax import logs

        content = {
            "command": shlex.join(["python", "-m", "experiments.replicas", *arguments]),
            "config": study.settings(group.config),
            "environment": logs.environment(),
            **result,
        }
        path.write_text(json.dumps(logs.plain(content), indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"experiments.replicas: {error}", file=sys.stderr)
        return 2
    print(f"{told(result)}\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
