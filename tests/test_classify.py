"""Classification from end to end: train, resume, evaluate, predict, and go on."""

import json
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from segjax import checkpoint, models, setup, sharding, train
from segjax import config as configs
from segjax import step as steps
from segjax.augment import Augment
from segjax.classify import central_crop, evaluate_images
from segjax.data.image_batches import whole_or_centre
from segjax.evaluate import evaluate
from segjax.localize import Localizer
from segjax.losses.image import ImageLoss
from segjax.main import main
from segjax.models import encoders
from segjax.models.encoders.segnet_basic import SegNetBasicEncoder
from segjax.preprocessing import preprocessing
from segjax.top import count_hits
from segjax.warm import warm_start

CONFIGS = Path(__file__).parents[1] / "configs"
DIGITS = str(CONFIGS / "digits_resnet18.py")
QUICK = str(CONFIGS / "resnet_unet.py")
LITTLE = """
data.image_size=16
data.batch_size=32
model.encoder=segnet_basic
epochs=None
steps=4
eval.every=2
checkpoint.every=2
logs.every=1
logs.pictures=3
logs.tensorboard=False
optim.ema_decay=0.9
optim.schedule=constant
"""


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """SegNet-Basic of 8 channels instead of 64: what is tested is not the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "segnet_basic", partial(SegNetBasicEncoder, width=8))
        yield


def little(*more: str):
    lines = (*LITTLE.split(), *more)
    return configs.load(DIGITS, [f"--config.{line}" for line in lines])


def lines_of(workdir: Path) -> list[dict]:
    times = ("seconds", "images_per_s", "stall_share")
    text = (workdir / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir of a run of four steps, its result)."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    return workdir, train.train(little(), workdir)


@pytest.fixture(scope="module")
def trained(finished):
    """(parts, variables of its last step, the val split)."""
    parts = setup.load_parts(finished[0], [])
    variables, _ = setup.restore_variables(parts, finished[0], "latest")
    return parts, variables, setup.open_split(parts.config, "val")


def test_a_run_leaves_what_the_design_promises(finished):
    workdir, result = finished
    assert json.loads((workdir / "result.json").read_text()) == result
    assert {"top1", "top5", "accuracy_per_class", "confusion", "loss"} <= {*result}
    assert result["images"] == 360 and np.sum(result["confusion"]) == 360
    assert np.trace(result["confusion"]) == round(360 * result["top1"])
    assert (workdir / "predictions" / "overview.png").is_file()
    labels = json.loads((workdir / "labels.json").read_text())
    assert labels["names"] == list("0123456789") and "palette" not in labels
    lines = lines_of(workdir)
    train_lines = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in train_lines] == [1, 2, 3, 4]
    for line in train_lines:
        assert 0 <= line["top1"] <= line["top5"] <= 1 and "miou" not in line
        assert np.isfinite(line["loss"])
    scores = {x["step"]: x["top1"] for x in lines if x["split"] == "val"}
    assert set(scores) == {2, 4}
    assert result["best_step"] == max(scores, key=lambda step: (scores[step], step))


def test_a_stopped_run_resumes_bit_for_bit(finished, tmp_path):
    # Two steps now, and two more by asking for four: the rate is constant.
    whole, workdir = finished[0], tmp_path / "stopped"
    train.train(little("steps=2"), workdir)
    train.train(little(), workdir)
    assert lines_of(workdir) == lines_of(whole)
    parts = setup.load_parts(workdir, [])
    ours, theirs = (
        setup.restore_variables(parts, place, "latest")[0] for place in (workdir, whole)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_evaluate_repeats_the_result_and_prints_a_table(finished, capsys):
    workdir, result = finished
    summary = evaluate(workdir, [], checkpoint="latest")
    for key in ("top1", "top5", "confusion", "accuracy_per_class"):
        assert summary[key] == result[key]
    assert json.loads((workdir / "eval_val.json").read_text()) == summary
    said = capsys.readouterr().out
    assert "top-1" in said and "taken for" in said


class First:
    """The first examples of a source."""

    def __init__(self, source, count):
        self.source, self.count = source, count
        self.spec, self.channels = source.spec, source.channels

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.source[index]


@pytest.mark.parametrize("batch_size, devices", [(24, 8), (7, 1)])
def test_the_score_is_numpys_whatever_the_batch_and_the_devices(
    finished, trained, batch_size, devices
):
    _, variables, source = trained
    parts = setup.load_parts(
        finished[0],
        [f"--config.eval.batch_size={batch_size}"],
        devices=jax.devices()[:devices],
    )
    whole = sharding.replicated(parts.mesh)
    variables = jax.device_put(jax.device_get(variables), whole)
    n = 61
    summary, shown = evaluate_images(
        parts, parts.eval_step(), variables, First(source, n), show=(0, n - 1)
    )
    label = np.array([int(source[i]["label"]) for i in range(n)])
    seen = np.stack(
        [
            whole_or_centre(source[i]["image"], (16, 16), central_crop(parts))
            for i in range(n)
        ]
    )
    x = (seen / 255 - np.array(parts.pre.mean)) / np.array(parts.pre.std)
    logits = np.asarray(jax.jit(parts.model.apply)(variables, x.astype(np.float32)))
    order = np.argsort(-logits, axis=-1, kind="stable")
    assert summary["images"] == n
    assert summary["top1"] == (order[:, 0] == label).mean()
    assert summary["top5"] == (order[:, :5] == label[:, None]).any(-1).mean()
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (label, order[:, 0]), 1)
    assert summary["confusion"] == matrix.tolist()
    log = jax.nn.log_softmax(logits)[np.arange(n), label]
    np.testing.assert_allclose(summary["loss"], -log.mean(), rtol=1e-4)
    assert {k: int(v) for k, v in shown.items()} == {
        0: order[0, 0],
        n - 1: order[-1, 0],
    }


def test_predict_tells_class_and_probability_of_each_file(
    finished, trained, tmp_path, capsys
):
    parts, variables, source = trained
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for index in (0, 5):
        Image.fromarray(source[index]["image"]).save(photos / f"{index}.png")
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    arguments = ["predict", "--workdir", str(finished[0]), "--checkpoint", "latest"]
    code = main([*arguments, "--input", str(photos), "--output", str(output)])
    assert code == 2
    captured = capsys.readouterr()
    assert "1 of 3 files failed" in captured.err and "broken.png" in captured.err
    written = json.loads((output / "predictions.json").read_text())
    assert written["classes"] == list("0123456789") and written["step"] == 4
    classifier = Localizer(parts, variables)
    for row, index in zip(written["images"], (0, 5), strict=True):
        found, *_ = classifier(source[index]["image"])
        np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
        assert row["class_id"] == found.argmax() == int(row["class"])
        np.testing.assert_allclose(row["probability"], found.max(), rtol=1e-4)
        assert [b["class_id"] for b in row["best"]] == np.argsort(-found)[:5].tolist()
        assert f"{index}.png: {row['class']} {row['probability']:.3f}" in captured.out


def segmentation(*more: str):
    lines = (
        *("data.image_size=32", "data.batch_size=8", "model.encoder=segnet_basic"),
        *("model.decoder=fcn32s", "steps=1", *more),
    )
    return configs.load(QUICK, [f"--config.{line}" for line in lines])


def start(config, workdir):
    """The state that a run begins with."""
    run = train.Run(config, workdir)
    try:
        run.open()
        return jax.device_get((run.state.params, run.state.batch_stats))
    finally:
        run.close()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A segmentation's first parameters, from no checkpoint."""
    return start(segmentation(), tmp_path_factory.mktemp("runs") / "cold")[0]


@pytest.mark.parametrize("below", ["", "checkpoints", "checkpoints/4"])
def test_a_segmentation_starts_from_the_classifiers_encoder(
    finished, trained, fresh, tmp_path, below, capsys
):
    params, stats = start(
        segmentation(f"model.pretrained={finished[0] / below}"), tmp_path / "warm"
    )
    said = capsys.readouterr().out  # before the first wait
    assert f"weights from {finished[0] / below}; head without" in said
    assert said.startswith(
        "examples: 3000 of train, 200 of val; 8 classes: wall, floor,"
    )
    assert "; compiling the train step\n" in said
    _, variables, _ = trained
    encoder = variables["params"]["encoder"]  # averaged, as it was evaluated
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], encoder)
    theirs = variables["batch_stats"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, stats["encoder"], theirs)
    for name in ("decoder", "head"):
        jax.tree.map(np.testing.assert_array_equal, params.get(name), fresh.get(name))
    assert set(params) == set(fresh) != {"encoder"}
    different = jax.tree.map(lambda a, b: (a != b).any(), params, fresh)
    assert different["encoder"]["conv1"]["kernel"]


def parts_of(config):
    source = setup.open_split(config, "train")
    return setup.make_parts(config, source.spec, preprocessing(config, source.channels))


def test_another_encoder_does_not_fit(finished):
    config = segmentation(f"model.pretrained={finished[0]}", "model.encoder=resnet18")
    with pytest.raises(ValueError, match=r"not fit the model: \w+/encoder/.* is not"):
        warm_start(parts_of(config), None)  # type: ignore[arg-type]


def test_a_classifier_starts_from_a_segmentations_encoder(tmp_path):
    where = tmp_path / "segmentation"
    where.mkdir()
    parts = parts_of(segmentation())
    variables = jax.jit(parts.model.init)(jax.random.key(7), np.zeros((1, 32, 32, 3)))
    variables = {key: variables[key] for key in ("params", "batch_stats")}
    saved = checkpoint.Checkpoints(where / "checkpoints", keep_last=1)
    saved.save(0, variables)
    saved.close()
    setup.save_description(where, parts)
    params, _ = start(little(f"model.pretrained={where}"), tmp_path / "warm")
    theirs = variables["params"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], theirs)


def test_googlenets_auxiliary_logits_reach_the_loss():
    model = models.build_classifier("googlenet", 3)

    def losses(image, label):
        variables = model.init(jax.random.key(0), image)
        variables = {key: variables[key] for key in ("params", "batch_stats")}
        _, updates = model.apply(
            variables,
            image,
            train=True,
            method="scores",
            mutable=["auxiliary", "batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        found = jax.tree.leaves(updates["auxiliary"])
        return [ImageLoss().value(logits, label) for logits in found]

    image = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
    label = jax.ShapeDtypeStruct((4,), jnp.int32)
    assert [x.shape for x in jax.eval_shape(losses, image, label)] == [(), ()]


def test_the_published_weight_is_the_default():
    seen = {}
    config = configs.load(DIGITS, ["--config.model.encoder=googlenet"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "make_train_step", lambda *a, **o: seen.update(o))
        parts_of(config).train_step(optax.identity(), None)
    assert seen["aux_weight"] == 0.3 and seen["count"] is count_hits


class Linear(nn.Module):
    """Logits of the mean colour, two auxiliary ones beside; no batch statistics."""

    @nn.compact
    def scores(self, image, *, train=False):
        mean = jnp.mean(image, (1, 2))
        for name in ("first", "second"):
            self.sow("auxiliary", f"{name}_logits", nn.Dense(3, name=name)(mean))
        return nn.Dense(3, name="main")(mean)

    __call__ = scores


def test_a_step_is_numpys_loss_whole_or_in_accumulated_parts():
    mesh = sharding.make_mesh(devices=jax.devices()[:2])
    tx, found = optax.sgd(0.1), []
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 6, 6, 3), dtype=np.uint8),
        "label": rng.integers(0, 3, 8).astype(np.int32),
        "size": np.full((8, 2), 6, np.int32),
    }

    def init(key):
        return steps.init_state(Linear(), tx, key, (6, 6, 3))

    where = sharding.state_sharding(jax.eval_shape(init, jax.random.key(0)), mesh)
    make = jax.jit(init, out_shardings=where)
    for accumulate in (1, 4):
        train_step = steps.make_train_step(
            Linear(),
            tx,
            ImageLoss(),
            Augment((6, 6), flip=0.5),  # which leaves the mean alone
            mesh,
            where,
            num_classes=3,
            count=count_hits,
            seed=0,
            aux_weight=0.3,
            accumulate=accumulate,
        )
        start = make(jax.random.key(1))
        params = jax.device_get(start.params)
        state, metrics = train_step(start, sharding.to_devices(batch, mesh))
        found.append(jax.device_get((state.params, metrics)))
    mean = batch["image"].mean((1, 2)) / 255
    losses, logits = {}, {}
    for name, dense in params.items():
        logits[name] = mean @ dense["kernel"].astype(np.float64) + dense["bias"]
        log = logits[name] - np.log(np.exp(logits[name]).sum(-1, keepdims=True))
        losses[name] = -log[np.arange(8), batch["label"]].mean()
    want = losses["main"] + 0.3 * (losses["first"] + losses["second"])
    right = (logits["main"].argmax(-1) == batch["label"]).sum()
    for _, metrics in found:
        np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
        assert metrics["hits"].tolist() == [8, right, 8]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found
    )


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "googlenet", "resnet152"])
def test_the_configs_of_the_classics_make_their_networks(name):
    config = configs.load(str(CONFIGS / f"imagenet_{name}.py"))
    model = setup.make_model(config, 1000, 3, "cpu")
    made = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False),
        jnp.zeros((1, 224, 224, 3)),
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(made["params"]))
    published = {  # torchvision's
        "alexnet": 61_100_840,
        "vgg16": 138_357_544,
        "googlenet": 13_004_888,
        "resnet152": 60_192_808,
    }
    assert count == published[name]
    setup.make_augment(config, preprocessing(config, 3))
