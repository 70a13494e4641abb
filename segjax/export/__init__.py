"""``segjax export``: a run's network or weights for other programs.

Every file is read again and run on real images beside the run's own network before it
gets its name. What was found stands in ``<file>.json``, with what its user must know.
"""

import importlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segjax import logs
from segjax.export import agreement, onnx, savedmodel, stablehlo, torch
from segjax.export.network import Network, Trained, restore
from segjax.export.stablehlo import load as load_stablehlo
from segjax.writing import write_text

__all__ = ["FORMATS", "export", "load_stablehlo"]

FORMATS = {
    "torch": torch.ENDING,
    "onnx": onnx.ENDING,
    "stablehlo": stablehlo.ENDING,
    "savedmodel": savedmodel.ENDING,
}
Run = Callable[[np.ndarray], np.ndarray]
PROGRAMS = {"onnx": onnx, "stablehlo": stablehlo, "savedmodel": savedmodel}


def choose(output: Path, form: str | None) -> str:
    """The format: as asked for, or by the output's ending.

    Raises:
      ValueError: the ending is another format's, or none that is known.
    """
    if form is None:
        endings = {ending: form for form, ending in FORMATS.items() if ending}
        if output.suffix not in endings:
            known = ", ".join(f"{ending}: {form}" for ending, form in endings.items())
            raise ValueError(
                f"--output {output}: give --format or name it so ({known})"
            )
        return endings[output.suffix]
    if FORMATS[form] and output.suffix != FORMATS[form]:
        raise ValueError(
            f"--output {output}: --format {form} is written as {FORMATS[form]}; name "
            "it so"
        )
    return form


def export(
    workdir: Path,
    output: Path,
    overrides: Sequence[str] = (),
    *,
    form: str | None = None,
    naming: str | None = None,
    checkpoint: str = "best",
    size: tuple[int, int] | None = None,
    any_size: bool = False,
    fold: bool = False,
) -> dict[str, Any]:
    """Write a run's network (ONNX, StableHLO, SavedModel) or weights (PyTorch).

    Averaged parameters are taken where the run kept any.

    Args:
      workdir: the run's folder.
      output: the file.
      overrides: of the run's config.
      form: "torch", "onnx", "stablehlo", "savedmodel"; None: by the output's ending.
      naming: for torch, whose names: "smp", "torchvision", "timm" or "transformers";
        None: the first that the network has.
      checkpoint: "best", "latest" or a step.
      size: (H, W) of the program's images; None: those that the run was trained on.
      any_size: StableHLO alone, for images of any multiple of the encoder's stride.
      fold: whether batch norms become part of the convolutions before them.

    Returns:
      What ``<output>.json`` says.

    Raises:
      ValueError: no such run, checkpoint or naming; an option is not of this format; a
        package is missing; the written network differs from the run's.
    """
    form = choose(output, form)
    wrong = {
        "--naming": naming is not None and form != "torch",
        "--size": (size is not None or any_size) and form == "torch",
        "--fold-batch-norm": fold and form == "torch",
        "--size any": any_size and form != "stablehlo",
    }
    for flag, given in wrong.items():
        if given:
            raise ValueError(f"{flag} is not for --format {form}; leave it out")
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder already; name another")
    if form in PROGRAMS:
        PROGRAMS[form].check()
    trained = restore(workdir, overrides, checkpoint)
    network = trained.network(size, fold=fold, any_size=any_size)
    about = describe(trained, network, form) | {"batch_norm_folded": fold}
    output.parent.mkdir(parents=True, exist_ok=True)
    # Its own name only when it has been found to be right.
    draft = output.with_name(f"{output.stem}.unchecked{output.suffix}")
    # A state dict is no program: one batch, so that it is compiled once.
    batches = (agreement.COUNT,) if form == "torch" else agreement.BATCHES
    try:
        if form == "torch":
            said, run = _torch(trained, draft, naming, about)
        else:
            said, run = _program(network, draft, form, about)
        about["check"] = check = agreement.measure(
            run, trained.logits, trained.parts, network.size, batches
        )
        draft.replace(output)
    finally:
        _remove(draft)
    record = output.with_name(f"{output.name}.json")
    write_text(record, json.dumps(logs.plain(about), indent=2) + "\n")
    print(
        f"{said}, step {trained.step}: {output}; differs by at most "
        f"{check['relative_difference']:.1e} of the largest logit on {check['count']} "
        f"images ({check['images']}): {record.name}"
    )
    return about


def _torch(
    trained: Trained, draft: Path, naming: str | None, about: dict[str, Any]
) -> tuple[str, Run]:
    naming, whole = torch.naming_of(trained, naming)
    count = torch.write(trained, draft, naming)
    about |= {"naming": naming, "tensors": count}
    rest = "" if whole else f", the encoder alone ({naming} has no such decoder)"
    said = f"{count} tensors named as {naming}'s{rest}"
    return said, torch.read(trained, draft, naming)


def _program(
    network: Network, draft: Path, form: str, about: dict[str, Any]
) -> tuple[str, Run]:
    PROGRAMS[form].write(network, draft, about)
    height, width = network.size
    said = f"{form} for {'any size' if network.any_size else f'{height}x{width}'}"
    return said, PROGRAMS[form].read(draft)


def describe(trained: Trained, network: Network, form: str) -> dict[str, Any]:
    """What the user of an export must know, as plain JSON values."""
    parts, (height, width) = trained.parts, network.size
    size: list[Any] = [height, width]
    if network.any_size:
        size = [f"multiple of {network.stride}"] * 2
    config, classify = parts.config, parts.config.task == "classification"
    about: dict[str, Any] = {
        "format": form,
        "task": config.task,
        "encoder": config.model.encoder,
        "decoder": None if classify else config.model.decoder,
        "step": trained.step,
        "input_size": size,
        "preprocessing": {
            "layout": "NHWC",
            "channels": "RGB" if network.channels == 3 else network.channels,
            "range": [0.0, 1.0],
            "mean": list(parts.pre.mean),
            "std": list(parts.pre.std),
            "formula": "(pixel / largest value of its integer type - mean) / std",
            "fit": parts.pre.fit,
            "trained_size": list(parts.pre.image_size),
        },
        "classes": list(parts.spec.names),
        "palette": [list(colour) for colour in getattr(parts.spec, "palette", ())],
        "environment": logs.environment(),
    }
    if classify and parts.pre.fit == "pad":
        # The side of the square to cut out, over that of the largest that fits.
        about["preprocessing"]["central_crop"] = config.eval.crop
    if form == "torch":
        return about
    shape = ["batch", *size, network.channels]
    about["input"] = {"name": "image", "dtype": "float32", "shape": shape}
    shape = [*(shape[:1] if classify else shape[:3]), parts.spec.num_classes]
    about["output"] = {"name": "logits", "dtype": "float32", "shape": shape}
    needs = {"onnx": onnx.NEEDS, "savedmodel": ("tensorflow",)}.get(form, ())
    # By the modules: TensorFlow's distribution has several names.
    about["packages"] = {n: importlib.import_module(n).__version__ for n in needs}
    return about


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
