"""The command line. Each command is one function, imported late; flags: flags.py.

``segjax COMMAND`` and ``python -m segjax.main COMMAND`` are the same; without COMMAND
it is ``train``.

The exit code is 0 only when all that was asked happened; 1 where ``doctor`` found
errors or ``diff`` differences; 2 after a mistake, a full disk or numbers that are not
finite, said in one line; 3 when another process of the run is gone; 130 when
interrupted (Ctrl-C); 143 when SIGTERM stopped a training run, which has saved: the same
command goes on.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from segjax import flags

COMPUTING = ("train", "evaluate", "predict", "report", "bench-input")
JOINING = ("train", "evaluate", "predict")  # other processes


def _start_processes(args: argparse.Namespace) -> None:
    """Join the other processes of the run, where there are any."""
    from segjax import processes

    processes.join(args.coordinator, args.processes, args.process)


def _train(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from segjax import config as configs

    config = configs.load(args.config, overrides)
    _start_processes(args)
    import jax

    from segjax.train import train

    if args.workdir is None and jax.process_count() > 1:
        raise ValueError(
            "--workdir is missing; several processes need one name for the run"
        )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    workdir = args.workdir or Path("runs", Path(args.config).stem, stamp)
    train(config, Path(workdir))


def _evaluate(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    _start_processes(args)
    from segjax.evaluate import evaluate

    evaluate(
        Path(args.workdir),
        overrides,
        split=args.split,
        checkpoint=args.checkpoint,
        protocol=args.protocol,
    )


def _predict(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from segjax import processes

    processes.join()
    import jax

    from segjax.predict import Options, predict

    if jax.process_count() > 1:
        raise ValueError(
            f"predict works in one process, not in {jax.process_count()}; start it on "
            "one host with SEGJAX_DISTRIBUTED=0"
        )

    predict(
        Path(args.workdir),
        args.input or (),
        Path(args.output),
        overrides,
        checkpoint=args.checkpoint,
        split=args.split,
        options=Options(
            write=tuple(args.write) if args.write else None,
            min_area=args.min_area,
            connectivity=args.connectivity,
            every=args.every,
        ),
    )


def _report(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from segjax.report import report

    report(
        Path(args.workdir),
        overrides,
        against=Path(args.against) if args.against else None,
        split=args.split,
        output=Path(args.output) if args.output else None,
        checkpoint=args.checkpoint,
    )


def _import(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from segjax.importer import Wanted, import_weights

    wanted = Wanted(
        encoder=args.encoder,
        decoder=args.decoder,
        like=args.like,
        classes=args.classes,
        labels=Path(args.labels) if args.labels else None,
        channels=args.channels,
        mean=tuple(args.mean or ()) or None,
        std=tuple(args.std or ()) or None,
        image_size=tuple(args.image_size or ()) or None,
        naming=args.naming,
        ignore=tuple(args.ignore),
    )
    import_weights(Path(args.workdir), Path(args.weights), wanted, overrides)


def _export(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    # Compared in float32, which accelerators multiply with fewer bits.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from segjax.export import export

    any_size = args.size == ["any"]
    export(
        Path(args.workdir),
        Path(args.output),
        overrides,
        form=args.format,
        naming=args.naming,
        checkpoint=args.checkpoint,
        size=None if any_size else _size(args.size),
        any_size=any_size,
        fold=args.fold_batch_norm,
    )


def _size(words: list[str] | None) -> tuple[int, int] | None:
    """(H, W) from --size H W or --size N."""
    if words is None:
        return None
    if len(words) > 2 or not all(w.isdigit() and int(w) for w in words):
        raise ValueError(f"--size {' '.join(words)}: write H W in pixels, or any")
    return int(words[0]), int(words[-1])


def _plan(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    # Nothing is run: a TPU of this machine stays free for others.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from segjax import config as configs
    from segjax.plan import plan, report, save

    found = []
    for path in args.compare or [args.config]:
        result = plan(
            configs.load(path, overrides),
            Path(path).stem,
            args.topology,
            batch_per_chip=args.batch_per_chip,
            classes=args.classes,
            steps=args.steps,
        )
        found.append(result)
    stem = "_".join([*(r["config"] for r in found), args.topology.replace(":", "_")])
    report(
        found, save(found, Path(args.output or Path("runs", "plans", f"{stem}.json")))
    )


def _bench_input(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    # Nothing is put on a device: those of this machine stay free for others.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from segjax import config as configs
    from segjax.bench_input import bench_input, report

    name = Path(args.config).stem
    result = bench_input(
        configs.load(args.config, overrides),
        name,
        batches=args.batches,
        step_seconds=args.step_seconds,
    )
    report(result, Path(args.output or Path("runs", "bench_input", f"{name}.json")))


def _doctor(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    # Nothing is put on a device: those of this machine stay free for others.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from segjax import config as configs
    from segjax.doctor import doctor, report

    name = Path(args.config).stem
    result = doctor(configs.load(args.config, overrides), name)
    return report(result, Path(args.output or Path("runs", "doctor", f"{name}.json")))


def _listing(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from segjax import listing

    of = {"models": listing.models, "datasets": listing.datasets}
    print(of.get(args.command, listing.losses)(args.pattern))


def _completion(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from segjax.completion import completion

    print(completion(flags.parser(), args.shell), end="")


def _diff(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    from segjax.diff import diff

    return 0 if diff(args.first, args.second) else 1


RUN = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "report": _report,
    "import": _import,
    "export": _export,
    "plan": _plan,
    "bench-input": _bench_input,
    "doctor": _doctor,
    "models": _listing,
    "datasets": _listing,
    "losses": _listing,
    "completion": _completion,
    "diff": _diff,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, as the head of this file lists them."""
    launched = argv is None  # not called from a program of the user's
    argv = list(sys.argv[1:] if launched else argv)
    if not argv or (argv[0] not in RUN and argv[0] not in ("-h", "--help")):
        if argv and not argv[0].startswith("-"):
            from segjax.config import nearest

            print(
                f"segjax: no command {argv[0]!r}{nearest(argv[0], RUN)}; there "
                f"are {', '.join(RUN)}",
                file=sys.stderr,
            )
            return 2
        argv.insert(0, "train")
    overrides = [a for a in argv if a.startswith("--config.")]
    for text in overrides:
        if "=" not in text:  # "--config.optim.lr 0.01": its value would go elsewhere
            print(f"segjax: {text} has no value; write {text}=VALUE", file=sys.stderr)
            return 2
    args = flags.parser().parse_args([a for a in argv if a not in overrides])
    if launched:
        for stream in (sys.stdout, sys.stderr):
            # Names of files need not be text: they are told as far as they are.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if launched and args.command in COMPUTING:
        from segjax.pages import use_huge_pages

        use_huge_pages()
    if args.command not in JOINING:
        return _run(args, overrides)
    from segjax import processes

    # Of a failure the others have to hear: Python's own end would wait for them.
    try:
        with processes.ended_at_once(by=launched) as ending:
            ending.code = _run(args, overrides)
    except SystemExit as stop:  # all of them, together, by SIGTERM
        return int(stop.code or 0)
    return ending.code


def _run(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    """The command's exit code; a user's mistake is printed, anything else raised."""
    from segjax.processes import is_of_a_lost_peer, raised_here

    try:
        if overrides and args.command in flags.PLAIN:
            raise ValueError(f"segjax {args.command} takes no {overrides[0]}")
        code = RUN[args.command](args, overrides)
    except KeyboardInterrupt:
        print("segjax: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        told = isinstance(error, OSError) and error.filename is not None
        ours = (told or raised_here(error)) and not is_of_a_lost_peer(error)
        if args.traceback or not ours:
            raise
        print(f"segjax: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # jax.errors.JaxRuntimeError, without importing jax
        if args.traceback or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(
            f"segjax: out of memory ({str(error).splitlines()[0][:200]}); less need a "
            "smaller data.batch_size or data.image_size, optim.accumulate and "
            "model.remat=True in training, a smaller eval.batch_size in evaluation",
            file=sys.stderr,
        )
        return 2
    return code or 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
