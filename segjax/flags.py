"""The flags of every command, and the examples that its ``--help`` shows.

A command is a line in :data:`HELP`, its examples in :data:`EXAMPLES`, a function here
that adds its flags, and a function in main.py that runs it.
"""

import argparse
from collections.abc import Iterable

HELP: dict[str, str] = {
    "train": "train, evaluate, checkpoint; resume what was begun",
    "evaluate": "evaluate a run's checkpoint on a whole split",
    "predict": "label, or classify, images of any size with a trained run",
    "report": "one HTML file of what a run learned and where it fails",
    "import": "a run's folder from another program's weights",
    "export": "write a run's network or weights for other programs",
    "plan": "compile a run's steps for a TPU slice, without a TPU",
    "bench-input": "measure a config's input pipeline alone",
    "doctor": "look for faults in a config's dataset; exit code 1 where there are",
    "models": "list encoders and decoders",
    "datasets": "list the sources of examples, and which are here",
    "losses": "list losses and their options",
    "completion": "a script that completes commands, flags and knobs in a shell",
    "diff": "how two runs differ: config, data, code, versions; exit code as diff's",
}
"""Command -> what it does, in one line."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "train": (
        "segjax train --config configs/resnet_unet.py",
        "segjax train --config configs/resnet_unet.py --config.optim.lr=0.003 "
        "--workdir runs/a",
        "segjax train --config configs/folder.py --config.data.root=DIR "
        "--workdir runs/mine",
        "segjax train --config configs/digits_resnet18.py --workdir runs/digits",
    ),
    "evaluate": (
        "segjax evaluate --workdir runs/a --split val",
        "segjax evaluate --workdir runs/a --split test --config.data.root=DIR",
        "segjax evaluate --workdir runs/a --config.eval.flip=True "
        "--config.eval.scales='(0.75, 1.0, 1.25)'",
        "segjax evaluate --workdir runs/a --config.eval.mode=slide "
        "--config.eval.window=512",
        "segjax evaluate --workdir runs/a --split test --protocol "
        "camvid11_360x480_train367",
    ),
    "predict": (
        "segjax predict --workdir runs/a --input photos/ --output out/",
        "segjax predict --workdir runs/a --input a.jpg 'scans/**/*.tif' --output out/",
        "segjax predict --workdir runs/a --input clip.mp4 --every 10 --output out/",
        "segjax predict --workdir runs/a --input - --output out/  # paths, from stdin",
        "segjax predict --workdir runs/a --split val --output out/",
    ),
    "report": (
        "segjax report --workdir runs/a",
        "segjax report --workdir runs/a --against runs/b --split test "
        "--output a_and_b.html",
    ),
    "import": (
        "segjax import --weights unet.pth --encoder resnet34 --decoder unet "
        "--workdir runs/b",
    ),
    "export": (
        "segjax export --workdir runs/a --output unet.onnx",
        "segjax export --workdir runs/a --output unet.onnx --size 480 640 "
        "--fold-batch-norm",
        "segjax export --workdir runs/a --output unet.stablehlo --size any",
        "segjax export --workdir runs/a --output unet.safetensors --naming smp",
    ),
    "plan": (
        "segjax plan --config configs/resnet_unet.py --topology v5e:4x4 "
        "--batch-per-chip 16",
        "segjax plan --compare configs/resnet_unet.py configs/resnet_fcn32s.py "
        "--topology v5e:2x2",
    ),
    "bench-input": (
        "segjax bench-input --config configs/resnet_unet.py --step-seconds 0.05",
    ),
    "doctor": (
        "segjax doctor --config configs/resnet_unet.py",
        "segjax doctor --config configs/folder.py --config.data.root=DIR "
        "--output faults.json",
    ),
    "models": ("segjax models", "segjax models 'resnet*'", "segjax models dpt"),
    "datasets": ("segjax datasets", "segjax datasets folder"),
    "losses": ("segjax losses", "segjax losses tversky"),
    "completion": (
        "segjax completion bash > ~/.segjax.bash && source ~/.segjax.bash",
        "segjax completion zsh > ~/.segjax.zsh && source ~/.segjax.zsh",
    ),
    "diff": (
        "segjax diff runs/a runs/b",
        "segjax diff experiments/results/decoders:unet-0 "
        "experiments/results/decoders:fcn8s-0",
    ),
}
"""Command -> examples; ``segjax --help`` shows the first of each."""

KNOBS = """\
Every knob of segjax/config.py can be set by --config.KEY=VALUE.
Exit codes: 0 all that was asked happened; 1 doctor found errors, diff differences; 2 a
mistake, told in one line; 3 another process of the run is gone; 130 Ctrl-C; 143 stopped
by SIGTERM: training has saved, the same command goes on from there."""
PROCESSES = ("train", "evaluate")
"""Commands that several processes run together."""

PLAIN = ("models", "datasets", "losses", "completion", "diff")
"""Commands without a config: an override is a mistake."""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, without the ``--config.`` overrides."""
    whole = argparse.ArgumentParser(
        prog="segjax",
        description="Semantic segmentation: train, evaluate, predict, share weights.",
        epilog=_epilog(examples[0] for examples in EXAMPLES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in HELP.items():
        added = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=_epilog(EXAMPLES[name], name not in PLAIN),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        FLAGS[name](added)
        added.add_argument(
            "--traceback", action="store_true", help="show where an error came from"
        )
        if name in PROCESSES:
            _add_processes(added)
    return whole


def _epilog(examples: Iterable[str], knobs: bool = True) -> str:
    lines = ["examples:", *(f"  {line}" for line in examples)]
    return "\n".join([*lines, "", KNOBS] if knobs else lines)


def _add_processes(added: argparse.ArgumentParser) -> None:
    cluster = added.add_argument_group("several processes (else found out)")
    cluster.add_argument("--coordinator", metavar="HOST:PORT")
    cluster.add_argument("--processes", type=int, metavar="N")
    cluster.add_argument("--process", type=int, metavar="I")


def _add_workdir(added: argparse.ArgumentParser) -> None:
    added.add_argument("--workdir", required=True, metavar="DIR")


def _add_checkpoint(added: argparse.ArgumentParser) -> None:
    added.add_argument("--checkpoint", default="best", metavar="best|latest|STEP")


def _add_train(added: argparse.ArgumentParser) -> None:
    added.add_argument("--config", required=True, metavar="FILE")
    added.add_argument("--workdir", metavar="DIR", help="default: runs/<config>/<time>")


def _add_evaluate(added: argparse.ArgumentParser) -> None:
    _add_workdir(added)
    added.add_argument("--split", metavar="NAME", help="default: the run's own")
    added.add_argument(
        "--protocol",
        metavar="NAME",
        help="of segjax/card.py: refuse to score where a part of it differs",
    )
    _add_checkpoint(added)


def _add_predict(added: argparse.ArgumentParser) -> None:
    _add_workdir(added)
    source = added.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        nargs="+",
        metavar="FILE",
        help="images (turned as their EXIF says), folders with all below, patterns, "
        "videos, or - for a list of paths on standard input",
    )
    source.add_argument(
        "--split",
        metavar="NAME",
        help="of the run's dataset; tells the average precision of boxes and masks",
    )
    added.add_argument(
        "--output", required=True, metavar="DIR", help="nothing is written elsewhere"
    )
    _add_checkpoint(added)
    added.add_argument(
        "--write",
        nargs="+",
        choices=("label", "overlay", "contours", "boxes", "cam"),
        help="pictures, beside boxes.json; default: all that the run's task has (cam: "
        "a classifier's heat map)",
    )
    for name, default, text in (
        ("--min-area", 25, "pixels of the smallest region with a box"),
        ("--every", 1, "frames of a video: each N-th"),
    ):
        added.add_argument(
            name,
            type=int,
            default=default,
            metavar="N",
            help=f"{text}; default: {default}",
        )
    added.add_argument(
        "--connectivity",
        type=int,
        choices=(4, 8),
        default=8,
        help="neighbours of a pixel in a region; default: 8",
    )


def _add_report(added: argparse.ArgumentParser) -> None:
    _add_workdir(added)
    added.add_argument(
        "--against", metavar="DIR", help="another run's, compared image by image"
    )
    added.add_argument("--split", metavar="NAME", help="default: the run's own")
    added.add_argument(
        "--output", metavar="FILE.html", help="default: DIR/report_<split>.html"
    )
    _add_checkpoint(added)


def _add_export(added: argparse.ArgumentParser) -> None:
    _add_workdir(added)
    added.add_argument(
        "--output", required=True, metavar="FILE", help=".onnx .stablehlo .safetensors"
    )
    added.add_argument(
        "--format",
        choices=["torch", "onnx", "stablehlo", "savedmodel"],
        help="default: by the ending (.safetensors: torch)",
    )
    added.add_argument(
        "--naming",
        metavar="smp|torchvision|timm|transformers",
        help="torch: whose names; default: the first that the network has",
    )
    added.add_argument(
        "--size",
        nargs="+",
        metavar="PX",
        help="H W of the images, or any (stablehlo); default: as it was trained",
    )
    added.add_argument(
        "--fold-batch-norm",
        action="store_true",
        help="make batch norms part of the convolutions before them",
    )
    _add_checkpoint(added)


def _add_plan(added: argparse.ArgumentParser) -> None:
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


def _add_diff(added: argparse.ArgumentParser) -> None:
    run = "a workdir, or FOLDER:VARIANT-SEED of a study's results"
    added.add_argument("first", metavar="A", help=run)
    added.add_argument("second", metavar="B", help=run)


def _add_import(added: argparse.ArgumentParser) -> None:
    file = ".safetensors, .pth or .pt"
    added.add_argument("--weights", required=True, metavar="FILE", help=file)
    added.add_argument("--workdir", required=True, metavar="DIR")
    added.add_argument("--encoder", required=True, metavar="NAME")
    added.add_argument("--decoder", metavar="NAME", help="default: unet")
    classes = added.add_mutually_exclusive_group()
    classes.add_argument(
        "--classes", type=int, metavar="N", help="checked; default: as in the weights"
    )
    classes.add_argument(
        "--labels", metavar="FILE", help="classes.json, or labels.json of a run"
    )
    added.add_argument(
        "--like",
        metavar="segjax|smp|torchvision|timm|transformers",
        help="whose rules hold; default: whose names the weights have",
    )
    added.add_argument(
        "--naming",
        metavar="smp|torchvision|timm|transformers",
        help="whose names the tensors have; default: found out",
    )
    added.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help="checked; default: as in the weights",
    )
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


def _add_doctor(added: argparse.ArgumentParser) -> None:
    added.add_argument("--config", required=True, metavar="FILE")
    added.add_argument(
        "--output", metavar="FILE.json", help="default: runs/doctor/<config>"
    )


def _add_listing(added: argparse.ArgumentParser) -> None:
    added.add_argument(
        "pattern",
        nargs="?",
        metavar="PATTERN",
        help="names with * and ?, or a part of a name; default: all",
    )


def _add_completion(added: argparse.ArgumentParser) -> None:
    added.add_argument("shell", choices=("bash", "zsh"))


FLAGS = {
    "train": _add_train,
    "evaluate": _add_evaluate,
    "predict": _add_predict,
    "report": _add_report,
    "import": _add_import,
    "export": _add_export,
    "plan": _add_plan,
    "bench-input": _add_bench_input,
    "doctor": _add_doctor,
    "models": _add_listing,
    "datasets": _add_listing,
    "losses": _add_listing,
    "completion": _add_completion,
    "diff": _add_diff,
}
