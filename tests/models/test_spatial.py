"""Rows of an image split over devices: one device's logits, and no map is gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import record
from benchmarks.speed import spatial as benchmark
from segjax import hlo, models, sharding

DEVICES, CLASSES, SIZE = 8, 5, (256, 32)
# Of LLVM alone: a third of the time, and the same partition.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


NARROW = {
    "unet": {"decoder_channels": (32, 16, 16, 8, 8)},
    "deeplabv3plus": {"decoder_channels": 16},
    "fpn": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 16},
}


def small(decoder, spatial):
    """A ResNet-18 of one block per stage and an eighth of its width, and a decoder."""
    model = models.build(
        "resnet18",
        decoder,
        CLASSES,
        param_dtype=jnp.float64,
        platform="cpu",
        spatial=spatial,
        **NARROW[decoder],
    )
    encoder = model.encoder.clone(counts=(1, 1, 1, 1), width=8)
    return model.clone(encoder=encoder)


def random_variables(model, image):
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim == 4 else 100
        return rng.normal(size=leaf.shape) / np.sqrt(fan_in)

    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.mark.parametrize("decoder", NARROW)
def test_logits_are_one_devices_and_no_map_is_gathered(decoder):
    with jax.enable_x64(True):
        mesh = sharding.make_mesh(1, 1, DEVICES)
        image = np.random.default_rng(1).normal(size=(1, *SIZE, 3))
        model, alone = small(decoder, DEVICES), small(decoder, 1)
        variables = random_variables(alone, image)
        rows = sharding.image_sharding(mesh)
        whole = sharding.replicated(mesh)
        compiled = (
            jax.jit(model.apply, in_shardings=(whole, rows), out_shardings=rows)
            .lower(variables, image)
            .compile(QUICK)
        )
        logits = compiled(*jax.device_put((variables, image), (whole, rows)))
        expected = jax.jit(alone.apply, compiler_options=QUICK)(variables, image)
        np.testing.assert_allclose(logits, expected, atol=1e-9)
        assert np.std(expected) > 1e-3
        found = hlo.largest_collectives(hlo.parse(compiled.as_text()))
    # Means over the image, and group norm's: of one pixel's channels at most.
    pooled = 8 * 64
    assert found.pop("collective-permute")[0] > 0
    assert found.keys() <= {"all-reduce"}
    assert all(largest <= pooled for _, largest in found.values())


def test_the_record_reached_what_was_wanted_and_the_page_shows_it():
    content = record.read(benchmark.RECORD)
    assert len(content["rows"]) == len(benchmark.NETWORKS)
    for key, row in content["rows"].items():
        assert row["largest_difference"] <= 1e-4
        one, each = (row["temporary_bytes"][part] for part in ("one", "each"))
        # A resnet18 unet's one device needs half of what it did, docs/speed_spatial.md.
        least = 5 if "deeplabv3plus" in key else 3
        assert least * each <= one
        assert 5 * each <= {"deeplabv3plus": 775, "unet": 512}[key.split()[1]] * 2**20
        pooled = row["collectives"].get("all-reduce", {"largest_bytes": 0})
        assert pooled["largest_bytes"] <= 4 * 2048
        assert row["collectives"].keys() <= {"all-reduce", "collective-permute"}
    page = record.ROOT / "docs" / "speed_spatial.md"
    assert benchmark.render(content) in page.read_text()
