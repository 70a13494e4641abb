"""The command line: the only flags. Each command is one function, imported late.

``segjax COMMAND`` and ``python -m segjax.main COMMAND`` are the same; without COMMAND
it is ``train``.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

COMMANDS = ("train", "evaluate", "predict", "import", "export", "plan", "bench-input")
COMPUTING = ("train", "evaluate", "predict", "bench-input")
EXAMPLES = """\
examples:
  segjax train --config configs/resnet_unet.py
  segjax train --config configs/resnet_unet.py --config.optim.lr=0.003 --workdir runs/a
  segjax evaluate --workdir runs/a --split val
  segjax predict --workdir runs/a --input photos/ --output predictions/
  segjax import --weights unet.pth --encoder resnet34 --decoder unet --workdir runs/b
  segjax export --workdir runs/a --output unet.safetensors
  segjax plan --config configs/resnet_unet.py --topology v5e:4x4 --batch-per-chip 16
  segjax bench-input --config configs/resnet_unet.py --step-seconds 0.05

Every knob of segjax/config.py can be set by --config.KEY=VALUE.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segjax",
        description="Semantic segmentation: train, evaluate, predict, share weights.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False
        )
        added.add_argument(
            "--traceback", action="store_true", help="show where an error came from"
        )
        cluster = added.add_argument_group("several processes (else found out)")
        cluster.add_argument("--coordinator", metavar="HOST:PORT")
        cluster.add_argument("--processes", type=int, metavar="N")
        cluster.add_argument("--process", type=int, metavar="I")
        return added

    train = command("train", "train, evaluate, checkpoint; resume what was begun")
    train.add_argument("--config", required=True, metavar="FILE")
    train.add_argument("--workdir", metavar="DIR", help="default: runs/<config>/<time>")
    evaluate = command("evaluate", "evaluate a run's checkpoint on a whole split")
    evaluate.add_argument("--workdir", required=True, metavar="DIR")
    evaluate.add_argument("--split", metavar="NAME", help="default: the run's own")
    predict = command("predict", "label images of any size with a trained run")
    predict.add_argument("--workdir", required=True, metavar="DIR")
    predict.add_argument("--input", required=True, metavar="FILE_OR_DIR")
    predict.add_argument("--output", required=True, metavar="DIR")
    export = command("export", "write a run's weights for other programs")
    export.add_argument("--workdir", required=True, metavar="DIR")
    export.add_argument("--output", required=True, metavar="FILE.safetensors")
    export.add_argument(
        "--format", default="torch", choices=["torch"], help="a PyTorch state dict"
    )
    export.add_argument(
        "--naming", metavar="smp|torchvision|timm|transformers", help="whose names"
    )
    for added in (evaluate, predict, export):
        added.add_argument("--checkpoint", default="best", metavar="best|latest|STEP")
    _add_import(command("import", "a run's folder from another program's weights"))
    _add_plan(command("plan", "compile a run's steps for a TPU slice, without a TPU"))
    _add_bench_input(command("bench-input", "measure a config's input pipeline alone"))
    return parser


def _add_plan(added: argparse.ArgumentParser) -> None:
    """The flags of ``plan``."""
    configs = added.add_mutually_exclusive_group(required=True)
    configs.add_argument("--config", metavar="FILE")
    configs.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="two configs, side by side"
    )
    added.add_argument("--topology", required=True, metavar="v5e:4x4")
    added.add_argument("--batch-per-chip", type=int, metavar="N")
    added.add_argument(
        "--classes", type=int, metavar="N", help="where the dataset is not here"
    )
    added.add_argument(
        "--steps", nargs="+", choices=("train", "eval"), default=["train", "eval"]
    )
    added.add_argument(
        "--output", metavar="FILE.json", help="default: runs/plans/<config>_<topology>"
    )


def _add_bench_input(added: argparse.ArgumentParser) -> None:
    """The flags of ``bench-input``."""
    added.add_argument("--config", required=True, metavar="FILE")
    added.add_argument(
        "--batches", type=int, metavar="N", help="default: two passes over the split"
    )
    added.add_argument(
        "--step-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="of the step that takes the batches; default 0: it only takes them",
    )
    added.add_argument(
        "--output", metavar="FILE.json", help="default: runs/bench_input/<config>"
    )


def _add_import(added: argparse.ArgumentParser) -> None:
    """The flags of ``import``."""
    file = ".safetensors, .pth or .pt"
    added.add_argument("--weights", required=True, metavar="FILE", help=file)
    added.add_argument("--workdir", required=True, metavar="DIR")
    added.add_argument("--encoder", required=True, metavar="NAME")
    added.add_argument("--decoder", metavar="NAME", help="default: unet")
    classes = added.add_mutually_exclusive_group()
    classes.add_argument(
        "--classes", type=int, metavar="N", help="checked; default: as the weights have"
    )
    classes.add_argument(
        "--labels", metavar="FILE", help="classes.json, or labels.json of a run"
    )
    added.add_argument(
        "--like",
        metavar="segjax|smp|torchvision|timm|transformers",
        help="whose rules hold; default: whose names the weights have",
    )
    added.add_argument("--channels", type=int, metavar="N", help="default: 3")
    for name in ("--mean", "--std"):
        added.add_argument(
            name, nargs="+", type=float, metavar="X", help="default: ImageNet's"
        )
    added.add_argument(
        "--image-size",
        nargs="+",
        type=int,
        metavar="PX",
        help="H W to resize images to for the network; default: their own size",
    )
    added.add_argument(
        "--ignore",
        nargs="+",
        default=(),
        metavar="PATTERN",
        help="tensors to pass over: 'aux_classifier.*'",
    )


def _start_processes(args: argparse.Namespace) -> None:
    """Join the other processes of the run, where there are any."""
    import jax

    if args.coordinator is not None:
        jax.distributed.initialize(
            args.coordinator,
            args.processes,
            args.process,
            heartbeat_timeout_seconds=30,
        )
    elif os.environ.get("SEGJAX_DISTRIBUTED") == "1":
        # On Cloud TPU, SLURM and Open MPI JAX finds the others by itself.
        jax.distributed.initialize(heartbeat_timeout_seconds=30)


def _train(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from segjax import config as configs

    config = configs.load(args.config, overrides)
    _start_processes(args)
    from segjax.train import train

    if args.workdir is None and (args.processes or 1) > 1:
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
        Path(args.workdir), overrides, split=args.split, checkpoint=args.checkpoint
    )


def _predict(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    _start_processes(args)
    from segjax.predict import predict

    predict(
        Path(args.workdir),
        Path(args.input),
        Path(args.output),
        overrides,
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
        ignore=tuple(args.ignore),
    )
    import_weights(Path(args.workdir), Path(args.weights), wanted, overrides)


def _export(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from segjax.export import export

    export(
        Path(args.workdir),
        Path(args.output),
        overrides,
        naming=args.naming,
        checkpoint=args.checkpoint,
    )


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


RUN = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "import": _import,
    "export": _export,
    "plan": _plan,
    "bench-input": _bench_input,
}


def _is_ours(error: BaseException) -> bool:
    """Whether segjax itself raised it: a user's mistake, said in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    here = str(Path(__file__).parent)
    return bool(frames) and frames[-1].filename.startswith(here)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 only when all that was asked happened.

    2: a mistake of the user's, told in one line. 130: interrupted.
    """
    launched = argv is None  # not called from a program of the user's
    argv = list(sys.argv[1:] if launched else argv)
    if not argv or (argv[0] not in COMMANDS and argv[0] not in ("-h", "--help")):
        if argv and not argv[0].startswith("-"):
            from segjax.config import nearest

            print(
                f"segjax: no command {argv[0]!r}{nearest(argv[0], COMMANDS)}; there "
                f"are {', '.join(COMMANDS)}",
                file=sys.stderr,
            )
            return 2
        argv.insert(0, "train")
    overrides = [a for a in argv if a.startswith("--config.")]
    args = _parser().parse_args([a for a in argv if a not in overrides])
    try:
        if launched and args.command in COMPUTING:
            from segjax.pages import use_huge_pages

            use_huge_pages()
        RUN[args.command](args, overrides)
    except KeyboardInterrupt:
        print("segjax: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        told = isinstance(error, OSError) and error.filename is not None
        if args.traceback or not (told or _is_ours(error)):
            raise
        print(f"segjax: {error}", file=sys.stderr)
        return 2
    return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
