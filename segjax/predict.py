"""``segjax predict``: any image to label map, overlay and boxes at its own size."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from segjax import cache, inference, logs, setup
from segjax.data import files


def find_images(path: Path) -> list[Path]:
    """The image files that ``path`` names: itself, or those below a folder.

    Raises:
      ValueError: there is nothing there, or no image.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"--input {path}: there is no such file or folder")
    found = sorted(
        p
        for p in path.rglob("*")
        if p.is_file() and p.suffix.lower() in files.EXTENSIONS
    )
    if not found:
        raise ValueError(
            f"--input {path}: no image in this folder (looked for "
            f"{', '.join(sorted(files.EXTENSIONS))})"
        )
    return found


def output_names(images: Sequence[Path], root: Path) -> Iterator[tuple[Path, str]]:
    """Each image and the name of its outputs: its path below ``root``, no suffix.

    Two images that would share a name keep their suffixes, so none overwrites another.
    """
    below = [p.relative_to(root) if root.is_dir() else Path(p.name) for p in images]
    stems = [str(p.with_suffix("")) for p in below]
    for image, relative, stem in zip(images, below, stems, strict=True):
        yield image, str(relative) if stems.count(stem) > 1 else stem


def predict_one(
    predictor: inference.Predictor, channels: int, path: Path, output: Path, name: str
) -> dict:
    """Write ``<name>.png`` (palette), ``<name>_overlay.png``; return the boxes."""
    image = files.read_image(path, channels)
    probabilities = predictor.probabilities(image)
    label = probabilities.argmax(-1).astype(np.uint8)
    target = output / f"{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    inference.palette_png(target, label, predictor.spec)
    shown = inference.display_image(image)
    inference.write_png(
        output / f"{name}_overlay.png", inference.overlay(shown, label, predictor.spec)
    )
    return {
        "image": str(path),
        "label": f"{name}.png",
        "size": list(label.shape),
        "boxes": inference.boxes(label, predictor.spec, probabilities),
    }


def predict(
    workdir: Path,
    source: Path,
    output: Path,
    overrides: Sequence[str] = (),
    *,
    checkpoint: str = "best",
) -> list[dict]:
    """Label a file or every image of a folder; writes PNGs and ``boxes.json``.

    Raises:
      ValueError: nothing to read, or some files could not be read (the others are
        done first; the message names these).
    """
    from rich.console import Console
    from rich.progress import track

    images = find_images(source)
    cache.keep_compiled()
    parts = setup.load_parts(workdir, list(overrides), devices=jax.local_devices()[:1])
    variables, step = setup.restore_variables(parts, workdir, checkpoint)
    predictor = inference.Predictor(
        parts.model,
        variables,
        parts.spec,
        mean=parts.pre.mean,
        std=parts.pre.std,
        image_size=parts.pre.image_size,
        fit=parts.pre.fit,
        bucket=parts.config.eval.bucket,
        mesh=parts.mesh,
        dtype=parts.dtype,
    )
    output.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True)
    results, broken = [], []
    pairs = list(output_names(images, source))
    for path, name in track(pairs, "predicting", console=console, transient=True):
        try:
            results.append(
                predict_one(predictor, parts.pre.channels, path, output, name)
            )
        except (ValueError, OSError) as error:
            broken.append(str(error))
    boxes = {
        "classes": list(parts.spec.names),
        "step": step,
        "environment": logs.environment(),
        "images": results,
    }
    (output / "boxes.json").write_text(json.dumps(boxes, indent=2) + "\n")
    console.print(f"{len(results)} images, step {step}: {output}", highlight=False)
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(images)} files failed: {'; '.join(broken)}"
        )
    return results
