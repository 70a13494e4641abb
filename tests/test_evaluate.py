"""``segjax evaluate`` on a network that was not trained, against slow counts."""

import json
import math
import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import jax
import numpy as np
import pytest

from segjax import card, checkpoint, setup, sharding, views
from segjax import config as configs
from segjax.batch import IGNORE, LabelSpec, default_palette
from segjax.evaluate import evaluate, evaluate_split, score_split
from segjax.main import main
from segjax.metrics import Confusion, confusion_matrix
from segjax.ops.scores import Scores
from segjax.preprocessing import preprocessing
from segjax.tasks import Segmentation
from tests.requirements import xla_flags
from tests.tiny import Tiny, tiny

LABELS = "--config.data.image_size=(40, 48)"  # of the data; the network sees (32, 32)
MODES = {
    "whole": [],
    "views": ["--config.eval.scales=(0.5, 1.0)", "--config.eval.flip=True"],
    "slide": ["--config.eval.mode=slide", "--config.eval.window=16"],
}


@pytest.fixture(autouse=True)
def network(request):
    """Other processes know only real networks."""
    with nullcontext() if request.node.get_closest_marker("slow") else tiny():
        yield


def make_workdir(folder):
    """A run's folder with random weights."""
    config = configs.default()
    config.steps = 1
    config.data.image_size = (32, 32)
    config.data.batch_size = 8
    config.data.shapes.val_examples = 11
    config.data.shapes.train_examples = 5
    config.model.encoder = config.model.decoder = "segnet_basic"
    config.eval.bucket = 16
    configs.validate(config)
    source = setup.open_split(config, "val")
    parts = setup.make_parts(config, source.spec, preprocessing(config, 3))
    image = np.zeros((1, 32, 32, 3), np.float32)
    init = jax.jit(lambda key: parts.model.init(key, image, train=False))
    variables = init(jax.random.key(0))
    folder.mkdir()
    saved = checkpoint.Checkpoints(folder / "checkpoints", keep_last=1, keep_best=0)
    kept = {k: v for k, v in variables.items() if k in ("params", "batch_stats")}
    saved.save(0, kept, force=True)
    saved.close()
    setup.save_description(folder, parts)
    card.save_origin(folder, config, setup.open_split(config, "train"), source)
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    with tiny():
        return make_workdir(tmp_path_factory.mktemp("runs") / "a")


@pytest.fixture(scope="module")
def results(workdir):
    """Mode -> what ``evaluate`` returns."""
    with tiny():
        return {mode: scored(workdir, mode) for mode in MODES}


def scored(workdir, mode):
    return evaluate(workdir, [LABELS, *MODES[mode]], checkpoint="latest")


def probabilities(workdir, mode):
    """Truth and float64 probabilities of every image: one image, one device."""
    parts = setup.load_parts(workdir, [LABELS, *MODES[mode]], jax.devices()[:1])
    variables, _ = setup.restore_variables(parts, workdir, "latest")
    source = setup.open_split(parts.config, "val")
    seen = views.views_of(parts)
    for i in range(len(source)):
        example = source[i]
        found = seen(variables, example["image"]).astype(np.float64)
        yield example["label"], found


@pytest.mark.parametrize("mode", MODES)
def test_every_image_is_counted_once(workdir, results, mode):
    summary = results[mode]
    k = len(summary["iou_per_class"])
    matrix, nll, brier, gaps = np.zeros((k, k), int), 0.0, 0.0, np.zeros(15)
    scores = []
    for truth, found in probabilities(workdir, mode):
        assert truth.shape == (40, 48)
        own = np.zeros((k, k), int)
        for t, p in zip(truth.reshape(-1), found.reshape(-1, k), strict=True):
            if t == IGNORE:
                continue
            own[t, p.argmax()] += 1
            nll -= math.log(p[t])
            brier += ((p - np.eye(k)[t]) ** 2).sum()
            gaps[math.ceil(p.max() * 15) - 1] += float(p.argmax() == t) - p.max()
        matrix += own
        union = own.sum(0) + own.sum(1) - np.diag(own)
        scores.append(np.mean((np.diag(own) / np.maximum(union, 1))[union > 0]))
    pixels = matrix.sum()
    # Other batches and other numbers of devices round otherwise: a few pixels tip.
    assert abs(np.array(summary["confusion"]) - matrix).sum() <= 1e-3 * pixels
    assert summary["pixels"] == pixels and (matrix.sum(0) > 0).sum() > 2
    assert summary["nll"] == pytest.approx(nll / pixels, rel=1e-4)
    assert summary["brier"] == pytest.approx(brier / pixels, rel=1e-4)
    assert summary["ece"] == pytest.approx(abs(gaps).sum() / pixels, rel=1e-2)
    found = [image["miou"] for image in summary["images"]]
    np.testing.assert_allclose(found, scores, atol=2e-3)
    assert summary["worst_images"][0]["id"] == f"val_{int(np.argmin(scores)):05}" or (
        summary["worst_images"][0]["miou"] == pytest.approx(min(scores), abs=2e-3)
    )


class Unread:
    """What stays on the devices."""

    def __array__(self, *_, **__):
        raise AssertionError("pixels were fetched")


def test_a_split_has_one_matrix_and_nothing_else_leaves_the_devices(monkeypatch):
    """Batches of unequal numbers of valid pixels: no mean of batches' means.

    The step is the test's own, so that nothing is compiled.
    """
    rng = np.random.default_rng(4)
    spec = LabelSpec(tuple("abc"), default_palette(3))
    config = configs.default()
    config.data.batch_size, config.eval.bucket = 8, 4
    pre = preprocessing(config, 3)
    parts = setup.Parts(config, spec, pre, sharding.make_mesh(), None, None)
    truth = rng.integers(0, 3, (11, 4, 8)).astype(np.uint8)
    truth[:8][rng.random((8, 4, 8)) < 0.9] = IGNORE  # the full batch says the least
    truth[8:][truth[8:] == 2] = 0  # and the other lacks a class

    class Source:
        channels = 3

        def __len__(self):
            return len(truth)

        def __getitem__(self, i):
            return {"image": np.zeros((4, 8, 3), np.uint8), "label": truth[i], "id": i}

    matrices, losses, fetched = [], [], []

    def step(_, batch):
        label = np.asarray(batch["label"])
        kept = label != IGNORE
        found = (label[kept].astype(int) + (np.arange(kept.sum()) % 3 == 0)) % 3
        matrix = np.zeros((3, 3), np.int32)
        np.add.at(matrix, (label[kept], found), 1)
        matrices.append(matrix)
        losses.append(np.float32(len(losses) + 1))
        return {"confusion": matrix, "loss": losses[-1], "prediction": Unread()}

    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: fetched.append(x) or get(x))
    sizes = [(4, 8)] * 11
    summary, shown = evaluate_split(parts, step, None, Source(), sizes=sizes)
    whole = np.sum(matrices, 0)
    assert len(matrices) == 2 and whole.sum() == (truth != IGNORE).sum() and not shown
    union = whole.sum(0) + whole.sum(1) - np.diag(whole)
    assert summary["miou"] == pytest.approx(np.mean(np.diag(whole) / union))
    pixels = [m.sum() for m in matrices]
    assert summary["loss"] == pytest.approx(np.average(losses, weights=pixels))
    assert sum(x.nbytes for x in jax.tree.leaves(fetched)) == 2 * (9 * 4 + 4)


def test_each_mode_is_another_number_and_another_id(results):
    for key in ("nll", "miou"):
        assert len({r[key] for r in results.values()}) == len(MODES)
    assert len({r["protocol"]["id"] for r in results.values()}) == len(MODES)


def test_whole_images_score_as_in_training(workdir, results):
    parts = setup.load_parts(workdir, [LABELS])
    variables, _ = setup.restore_variables(parts, workdir, "latest")
    source = setup.open_split(parts.config, "val")
    summary, _ = evaluate_split(parts, parts.eval_step(), variables, source)
    for key in ("miou", "iou_per_class", "fwiou", "dice", "pixels"):
        assert summary[key] == results["whole"][key]
    # Cross-entropy is the NLL, which is counted by hand above.
    assert summary["loss"] == pytest.approx(results["whole"]["nll"], rel=1e-4)
    # What costs more than a confusion matrix is of the command alone.
    assert not {"ece", "boundary_f1", "miou_by_size", "images"} & set(summary)


def test_the_file_is_strict_json_and_holds_the_card(workdir, results):
    path = workdir / "eval_val.json"

    def refuse(text):
        raise AssertionError(text)

    stored = json.loads(path.read_text(), parse_constant=refuse)
    assert stored == results["slide"]  # the last one
    protocol = stored["protocol"]
    assert protocol["name"] is None and protocol["selection"] == {"rule": "latest"}
    assert protocol["data"]["examples"] == 11 and protocol["train"]["examples"] == 5
    assert protocol["inference"]["window"] == [16, 16]
    assert protocol["input"]["sizes"] == "32x32"
    assert protocol["labels"]["sizes"] == "40x48"
    assert stored["seconds"] > 0 and "seconds" not in protocol


def test_a_named_protocol_is_printed_or_refused(workdir, monkeypatch, capsys):
    command = ["evaluate", "--workdir", str(workdir), "--checkpoint", "latest", LABELS]
    command += ["--protocol", "shapes5"]
    monkeypatch.setitem(card.PROTOCOLS, "shapes5", {"train.examples": 5, "seed": 0})
    assert main(command) == 0
    printed = capsys.readouterr().out
    stored = json.loads((workdir / "eval_val.json").read_text())
    assert stored["protocol"]["name"] == "shapes5"
    assert f"shapes5 ({stored['protocol']['id']})" in printed
    assert "boundary" in printed and "calibration error" in printed
    monkeypatch.setitem(card.PROTOCOLS, "shapes5", {"train.examples": 6})
    (workdir / "eval_val.json").unlink()
    assert main(command) == 2
    assert "train.examples is 5 here, but 6" in capsys.readouterr().err
    assert not (workdir / "eval_val.json").exists()


class Mixed:
    """Images of mixed sizes, larger or smaller than the network's."""

    channels = 3

    def __init__(self, source):
        self.source, self.spec = source, source.spec
        self.sizes = [(17 + 3 * i % 16, 40 - i) for i in range(len(source))]

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        (h, w), example = self.sizes[index], self.source[index]
        cut = {key: example[key][:h, :w] for key in ("image", "label")}
        return example | cut

    def size(self, index):
        return self.sizes[index]

    def ids(self):
        return self.source.ids()


@pytest.mark.parametrize("mode", ["views", "slide"])
def test_mixed_sizes_compile_few_networks(workdir, mode, monkeypatch):
    parts = setup.load_parts(workdir, [LABELS, *MODES[mode]])
    variables, _ = setup.restore_variables(parts, workdir, "latest")
    source = Mixed(setup.open_split(parts.config, "val"))
    made = []
    views_of = views.views_of
    monkeypatch.setattr(
        views, "views_of", lambda p: made.append(views_of(p)) or made[0]
    )
    tally = score_split(parts, variables, source, sizes=source.sizes)
    assert made[0].network._cache_size() == {"views": 2, "slide": 1}[mode]
    want = sum(
        (example["label"] != IGNORE).sum()
        for example in map(source.__getitem__, range(11))
    )
    assert tally.sums["confusion"].sum() == tally.sums["count"].sum() == want
    assert (tally.sums["image_pixels"] > 0).all()


@pytest.mark.parametrize("mode", ["whole", "views", "slide"])
def test_any_mix_of_sizes_compiles_a_bounded_number(workdir, mode, monkeypatch):
    """At most eval.programs of each kind and scale, where buckets alone make more."""
    few = ["--config.eval.bucket=4", "--config.eval.programs=3"]
    parts = setup.load_parts(workdir, [LABELS, *MODES[mode], *few])
    parts = replace(parts, pre=replace(parts.pre, fit="pad"))
    variables, _ = setup.restore_variables(parts, workdir, "latest")
    source = Mixed(setup.open_split(parts.config, "val"))
    assert len({views.rounded_up(size, 4) for size in source.sizes}) > 6
    made = []
    for module, name in ((views, "views_of"), (Segmentation, "eval_step")):
        make = getattr(module, name)
        keep = lambda *a, f=make, **k: made.append(f(*a, **k)) or made[0]  # noqa: E731
        monkeypatch.setattr(module, name, keep)
    tally = score_split(parts, variables, source, sizes=source.sizes)
    assert (tally.sums["image_pixels"] > 0).all()
    (made,) = made
    if mode == "whole":
        programs = {made: 3}
    elif mode == "views":  # two scales
        programs = {made.network: 6, made._finish: 6}
    else:
        programs = {made.network: 1, made._finish: 3, made._blend: 3}
    for program, most in programs.items():
        assert 1 <= program._cache_size() <= most


class Pooling(Tiny):
    """Sees the mean of all it gets, padding included."""

    def scores(self, image, train=False):
        found = super().scores(image, train)
        mean = found.array.mean((1, 2), keepdims=True)
        return Scores(found.array - 3 * mean, found.rule)


def test_all_commands_see_an_image_padded_alike(workdir, monkeypatch):
    """As many padded sizes as there may be: training, evaluate, report and predict."""
    few = ["--config.eval.bucket=4", "--config.eval.programs=3"]
    parts = setup.load_parts(workdir, [LABELS, *few], jax.devices()[:1])
    parts = replace(parts, pre=replace(parts.pre, fit="pad"))
    parts.config.data.fit = "pad"
    parts = replace(parts, model=Pooling(parts.spec.num_classes))
    variables, _ = setup.restore_variables(parts, workdir, "latest")
    source = Mixed(setup.open_split(parts.config, "val"))
    known = views.padded_to(parts.config, source.sizes)
    assert len(known) == 3
    _, trained = evaluate_split(
        parts, parts.eval_step(), variables, source, sizes=source.sizes, show=range(11)
    )
    tally = score_split(parts, variables, source, sizes=source.sizes)
    seen, other = views.views_of(parts), 0
    total = Confusion(parts.spec.num_classes)
    for index in range(11):
        example = source[index]
        # What report and predict call.
        label, _ = seen.label(variables, example["image"], known)
        np.testing.assert_array_equal(label, trained[index])
        total.add(confusion_matrix(label, example["label"], parts.spec.num_classes))
        other += (seen.label(variables, example["image"])[0] != label).sum()
    assert other > 0, "the padding is seen"
    np.testing.assert_array_equal(tally.sums["confusion"], total.matrix)


def test_labels_of_mixed_sizes_compile_the_network_once(workdir):
    """With data.fit=resize, whatever the labels' sizes: it sees one size of images."""
    parts = setup.load_parts(workdir, [LABELS])
    variables, _ = setup.restore_variables(parts, workdir, "latest")
    source = Mixed(setup.open_split(parts.config, "val"))
    step = parts.eval_step()
    summary, _ = evaluate_split(parts, step, variables, source, sizes=source.sizes)
    assert step.network._cache_size() == 1 < step.score._cache_size()
    examples = map(source.__getitem__, range(len(source)))
    assert summary["pixels"] == sum((x["label"] != IGNORE).sum() for x in examples)


@pytest.mark.parametrize(
    "batch, size, classes, devices, rows",
    [
        (8, (3000, 4000), 8, 1, 2),  # 0.36 GiB an image
        (8, (3000, 4000), 100, 1, 1),
        (8, (3000, 4000), 8, 4, 8),
        (16, (3000, 4000), 100, 8, 8),
        (8, (360, 480), 11, 1, 8),
    ],
)
def test_rows_of_a_batch_whose_logits_fit(batch, size, classes, devices, rows):
    from segjax import evaluate as module

    sizes = {(32, 32), (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32)}
    assert module.rows_that_fit(batch, sizes, classes, devices) == rows


@pytest.mark.parametrize("mode", ["whole", "views"])
def test_fewer_rows_at_a_time_score_alike(workdir, mode, monkeypatch):
    from segjax import evaluate as module
    from segjax import sharding

    wanted = scored(workdir, mode)
    taken = []
    original = module.evaluation.eval_batches

    def watched(source, schedule, *, batch_size, **options):
        taken.append(batch_size)
        return original(source, schedule, batch_size=batch_size, **options)

    monkeypatch.setattr(module.evaluation, "eval_batches", watched)
    monkeypatch.setattr(module, "LOGITS", 1)
    found = scored(workdir, mode)
    mesh = setup.load_parts(workdir, [LABELS]).mesh
    assert taken == [sharding.batch_parts(mesh)]
    for key in ("pixels", "iou_per_class", "examples"):
        assert found[key] == wanted[key]


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_nan_is_named(workdir, mode):
    parts = setup.load_parts(workdir, [LABELS, *MODES[mode]])
    variables, _ = setup.restore_variables(parts, workdir, "latest")
    source = setup.open_split(parts.config, "val")

    class Broken(Mixed):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            image = np.float32(example["image"]) / 255
            if index == 2:
                image[:3, :4] = np.nan
            return example | {"image": image}

    broken = Broken(source)
    with pytest.raises(ValueError, match=f"{source.ids()[2]}: 12 of .* are NaN"):
        score_split(parts, variables, broken, sizes=broken.sizes)


def test_every_devices_rows_are_taken():
    from segjax import evaluate as module
    from segjax import sharding

    array = np.arange(16).reshape(16, 1)
    mesh = sharding.make_mesh(data=4, spatial=2)
    placed = jax.device_put(array, sharding.batch_sharding(mesh))
    np.testing.assert_array_equal(module._own_rows(placed), array)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_score_as_one(mode, tmp_path):
    """About 40 s each: two real processes of two devices (jax.distributed, gloo)."""
    folder = make_workdir(tmp_path / "a")
    want = scored(folder, mode)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        sys.executable,
        "-m",
        "segjax.main",
        "evaluate",
        "--workdir",
        str(folder),
    ]
    command += ["--checkpoint", "latest", LABELS, *MODES[mode]]
    command += ["--coordinator", address, "--processes", "2", "--process"]
    environment = os.environ | {
        "SEGJAX_HUGETLB": "0",
        "XLA_FLAGS": xla_flags(2),
    }
    started = [
        subprocess.Popen([*command, str(i)], env=environment, stderr=subprocess.PIPE)
        for i in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()
    found = json.loads((folder / "eval_val.json").read_text())
    assert found["pixels"] == want["pixels"]
    moved = abs(np.array(found["confusion"]) - np.array(want["confusion"])).sum()
    assert moved <= 1e-3 * want["pixels"]  # rounding of sums over other devices
    for key in ("nll", "brier", "ece", "boundary_f1", "worst_miou"):
        assert found[key] == pytest.approx(want[key], rel=1e-2), key
    assert found["objects_by_size"] == want["objects_by_size"]
    assert [x["id"] for x in found["images"]] == [x["id"] for x in want["images"]]
    assert found["protocol"]["id"] == want["protocol"]["id"]
