"""Reference models with every tensor random, and the comparison with them.

A parity test is a :class:`Case`: names of the parts, a function that makes the PyTorch
model, and how to run it. ``case.measure()`` compares; the report (benchmarks/parity.py)
collects the ``CASES`` of all test modules of this folder.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.models import build, build_classifier
from segjax.weights import load_torch, to_torch
from tests.requirements import OPTIMIZED

LIMIT = 1e-4
# Names of what is neither weight nor bias: tokens and position tables are drawn like
# biases, gains of residual branches like gains.
TABLES = ("token", "pos_embed", "position", "relative_position_bias_table")
GAINS = ("layer_scale", "gamma", "lambda_")


def randomize(model, seed: int = 0):
    """Make every float tensor random, so that no tensor can be wrong unseen.

    Weights by Kaiming's spread, gains and layer scales U(.5, 1.5); biases, running
    means, tokens and position tables N(0, .5), running variances U(.5, 2). Returns
    the model in evaluation mode.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif any(word in name for word in GAINS):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif any(word in name for word in TABLES) and not name.endswith("weight"):
                tensor.normal_(0, 0.5, generator=generator)
            elif tensor.ndim > 1:
                sigma = (2 / tensor[0].numel()) ** 0.5
                tensor.normal_(0, sigma, generator=generator)
            elif name.endswith("weight"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0, 0.5, generator=generator)
    return model.eval()


def settle(model, run: Callable[[], Any], seed: int = 0) -> None:
    """Running statistics around a batch's: mean + N(0, .5) sigma, variance * U(.5, 2).

    Drawn without regard to the activations they normalize, they let these double with
    every residual block: in a ResNet-152 to 4e7, where no bias matters any more.

    Args:
      model: in evaluation mode.
      run: runs the model on a batch.
    """
    import torch

    norms = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    generator = torch.Generator().manual_seed(seed)

    def set_statistics(module, args):
        # Before the module runs on it, so that the next ones see what it makes.
        x = args[0]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean, var = x.mean(axes), x.var(axes, unbiased=False)
        # A channel that is nearly the same everywhere (a ReLU silenced it, its map has
        # few pixels) would be magnified, and its rounding with it: by 1e-4 in all in
        # an EfficientNet-B4 with a floor of 0.1.
        square = var + mean**2
        var = torch.maximum(var, 0.5 * (square + square.mean()))
        noise = torch.empty_like(mean).normal_(0, 0.5, generator=generator)
        module.running_mean.copy_(mean + noise * var.sqrt())
        factor = torch.empty_like(var).uniform_(0.5, 2, generator=generator)
        module.running_var.copy_(var * factor)

    handles = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()


def to_nchw(image: np.ndarray):
    """[B, H, W, C] as a torch tensor [B, C, H, W]."""
    import torch

    return torch.from_numpy(np.asarray(image).transpose(0, 3, 1, 2).copy())


def to_nhwc(tensor) -> np.ndarray:
    """[B, C, H, W] or [B, C] as [B, H, W, C] or [B, C]."""
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def logits_of(model, x):
    """The logits tensor of any package's model for a tensor x."""
    y = model(x)
    if isinstance(y, Mapping):
        return y["out"] if "out" in y else y["logits"]
    return getattr(y, "logits", y)


def run(model, image: np.ndarray) -> np.ndarray:
    """[B, H, W, C] -> [B, H, W, K] by a torch model in evaluation mode."""
    import torch

    with torch.no_grad():
        return to_nhwc(logits_of(model, to_nchw(image)))


def relative_error(found, wanted) -> float:
    """max |found - wanted| / max |wanted|."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def image(height, width, dtype=np.float32, batch=2, channels=3):
    """A random image batch [batch, height, width, channels], always the same."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(batch, height, width, channels)).astype(dtype)


def hooked(model, names, x) -> list[np.ndarray]:
    """Outputs of submodules, by name, while the model runs on x [B, H, W, C]."""
    import torch

    found, handles = {}, []
    for name in names:

        def keep(module, args, output, name=name):
            found[name] = to_nhwc(output.clone())

        handles.append(model.get_submodule(name).register_forward_hook(keep))
    try:
        with torch.no_grad():
            model(to_nchw(x))
    finally:
        for handle in handles:
            handle.remove()
    return [found[name] for name in names]


@dataclass(frozen=True)
class Case:
    """One network here and in a PyTorch package.

    Args:
      encoder: name here.
      decoder: name here, or None for the classifier.
      package: "torchvision", "smp", "timm", "transformers", or "paper" (a plain module
        in the tests, from the paper).
      make: () -> the torch model; imports the package when called.
      like: of segjax's model.
      size: (H, W) of the images.
      options: further options of build.
      fields: of the encoder, for a network smaller than any that has a name.
      forward: (model, tensor x) -> logits tensor; None: :func:`logits_of`.
      pyramid: (model, array x [B, H, W, C]) -> the encoder's maps [B, h, w, C], finest
        first, or names of submodules whose outputs they are; None: not compared.
      naming: of the weights; None: found out.
      double: compare in float64, for networks with jumps (a maximum's place), where
        rounding alone makes another result.
      idle: patterns (fnmatch) of the reference's tensors that its logits do not depend
        on: auxiliary heads, stages that the decoder does not use.
      slow: too long for CI.
    """

    encoder: str
    decoder: str | None
    package: str
    make: Callable[[], Any]
    like: str = "segjax"
    size: tuple[int, int] = (64, 64)
    options: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    forward: Callable | None = None
    pyramid: Callable | tuple[str, ...] | None = None
    naming: str | None = None
    classes: int = 5
    platform: str | None = None
    double: bool = False
    idle: tuple[str, ...] = ()
    slow: bool = False

    def __str__(self):
        kind = self.decoder or "classifier"
        return f"{self.encoder}-{kind}-{self.package}-{self.size[0]}x{self.size[1]}"

    def build(self, **options):
        """The model here."""
        common = {"like": self.like, "platform": self.platform, **self.options}
        if self.double:
            common["param_dtype"] = jnp.float64
        common |= options
        if self.decoder is None:
            model = build_classifier(self.encoder, self.classes, **common)
        else:
            model = build(self.encoder, self.decoder, self.classes, **common)
        return model.clone(encoder=model.encoder.clone(**self.fields))

    def reference(self, size: tuple[int, int]):
        """The PyTorch model, every tensor random, in evaluation mode.

        Its running statistics fit :func:`image` of that size, the one it is compared
        on: on another, deep networks may magnify the little that they have in common.
        """
        model = randomize(self.make())
        batch = to_nchw(image(*size))
        settle(model, lambda: self.reference_logits(model, batch))
        return model.double() if self.double else model

    def reference_logits(self, reference, tensor):
        """The reference's logits tensor."""
        return (self.forward or logits_of)(reference, tensor)

    def measure(self, samples: int = 2) -> dict[str, Any]:
        """Compare; returns errors per stage, the logits' error, the parameters.

        Asserts that the logits' argmax is the same wherever the top two differ by
        more than the error, that parameters are as many as the reference's, that the
        weights go back (``load_state_dict(strict=True)``, same tensors), and that
        zeroing ``samples`` random tensors each, and swapping two of one shape, breaks
        the parity.
        """
        with jax.enable_x64(self.double or jax.config.read("jax_enable_x64")):
            return self._measure(samples)

    def _measure(self, samples):
        import torch

        reference = self.reference(self.size)
        model = self.build()
        state = reference.state_dict()
        variables = load_torch(model, state, (*self.size, 3), naming=self.naming)
        x = image(*self.size, np.float64 if self.double else np.float32)
        with torch.no_grad():
            wanted = to_nhwc(self.reference_logits(reference, to_nchw(x)))

        def both(variables, x):
            logits, grown = model.apply(
                variables, x, capture_intermediates=_is_encoder, mutable=True
            )
            return logits, grown["intermediates"]["encoder"]["__call__"][0].maps

        both = jax.jit(both, compiler_options=OPTIMIZED)
        found, maps = both(variables, x)
        row: dict[str, Any] = {"logits": relative_error(found, wanted)}
        _assert_argmax(np.asarray(found), wanted, row["logits"])
        row["stages"] = self._stages(reference, maps, x)
        ours = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        unused = self._way_back(reference, model, variables)
        theirs = sum(p.numel() for p in reference.parameters())
        assert ours + unused == theirs, (ours, unused, theirs)
        row["parameters"] = ours
        self._sensitivity(model, state, both, x, wanted, samples)
        return row

    def check(self, **options):
        """Measure, and assert the errors within 1e-4."""
        row = self.measure(**options)
        assert row["logits"] <= LIMIT, row
        assert all(error <= LIMIT for error in row["stages"]), row

    def _stages(self, reference, maps, x) -> list[float]:
        if self.pyramid is None:
            return []
        if callable(self.pyramid):
            import torch

            with torch.no_grad():
                wanted = self.pyramid(reference, x)
        else:
            wanted = hooked(reference, self.pyramid, x)
        assert len(wanted) == len(maps)
        return [relative_error(a, b) for a, b in zip(maps, wanted, strict=True)]

    def _way_back(self, reference, model, variables) -> int:
        """to_torch fits the reference, tensor for tensor; parameters not used here."""
        import torch

        naming = self.naming or _naming(model, variables, reference)
        state = to_torch(model, variables, naming)
        own = reference.state_dict()
        tensors = {k: torch.from_numpy(v) for k, v in state.items()}
        assert set(tensors) == set(own), set(tensors) ^ set(own)
        other = self.make()
        other.load_state_dict(tensors, strict=True)
        from segjax.weights.naming import buffers, find_layout

        unused = buffers(model, find_layout(model, naming)[0])
        for name, tensor in own.items():
            if name.endswith("num_batches_tracked") or name in unused:
                continue
            assert torch.equal(tensors[name].to(tensor.dtype), tensor), name
        parameters = dict(reference.named_parameters())
        return sum(parameters[n].numel() for n in unused if n in parameters)

    def _sensitivity(self, model, state, both, x, wanted, samples):
        """A tensor set to zero, and two swapped, must break the parity."""
        from segjax.weights.naming import buffers, find_layout

        naming = self.naming or find_layout(model, None)[0].naming
        unused = buffers(model, find_layout(model, naming)[0])
        names = [
            name
            for name, tensor in state.items()
            if tensor.is_floating_point()
            and name not in unused
            and not _no_effect(name)
            and not any(fnmatchcase(name, pattern) for pattern in self.idle)
        ]

        def error_with(**changed):
            broken = {**state, **changed}
            variables = load_torch(model, broken, (*self.size, 3), naming=self.naming)
            return relative_error(both(variables, x)[0], wanted)

        rng = np.random.default_rng(len(names))
        order = [names[i] for i in rng.permutation(len(names))]
        for name in order[:samples]:
            error = error_with(**{name: state[name] * 0})
            assert error > LIMIT, f"{name} does not matter ({error})"
        twins = (
            (a, b)
            for i, a in enumerate(order)
            for b in order[i + 1 :]
            if state[a].shape == state[b].shape
        )
        for a, b in itertools.islice(twins, 1):
            error = error_with(**{a: state[b], b: state[a]})
            # A variance may have become negative: the result is NaN then.
            assert not error <= LIMIT, f"{a} and {b} are one to us ({error})"

    def check_input_gradient(self, size=(32, 32)):
        """The gradient with respect to the image, in float64 to 1e-7."""
        reference = self.reference(size).double()
        x = image(*size, np.float64)
        with jax.enable_x64(True):
            model = self.build(param_dtype=jnp.float64)
            variables = load_torch(
                model, reference.state_dict(), (*size, 3), naming=self.naming
            )
            tensor = to_nchw(x).requires_grad_()
            y = self.reference_logits(reference, tensor)
            weight = np.random.default_rng(2).normal(size=to_nhwc(y).shape)
            scale = to_nchw(weight) if weight.ndim == 4 else _tensor(weight)
            (y * scale).sum().backward()
            gradient = jax.jit(
                jax.grad(lambda x, v: jnp.sum(model.apply(v, x) * weight)),
                compiler_options=OPTIMIZED,
            )(x, variables)
        assert tensor.grad is not None
        assert relative_error(gradient, to_nhwc(tensor.grad)) <= 1e-7


def _tensor(array):
    import torch

    return torch.from_numpy(array)


def _is_encoder(module, method) -> bool:
    return method == "__call__" and module.name == "encoder"


def _no_effect(name: str) -> bool:
    """Biases that a softmax takes away again: zeroing them changes nothing."""
    return name.endswith(("key.bias", "k.bias", "k_proj.bias"))


def _naming(model, variables, reference) -> str:
    from segjax.weights.naming import detect

    return detect(model, variables, list(reference.state_dict())).naming


def _assert_argmax(found, wanted, error):
    """The same class wherever the top two differ by more than the error."""
    top = np.sort(wanted, -1)
    clear = top[..., -1] - top[..., -2] > 2 * error * np.abs(wanted).max()
    same = np.argmax(found, -1) == np.argmax(wanted, -1)
    assert np.all(same[clear]) and clear.mean() > 0.9, clear.mean()
