"""One contestant: a process that lives through the whole contest and runs on demand.

    python -m benchmarks.speed.worker '{"side": "torch", "task": "training", ...}'

Reads "turn STEPS" or "peak" from its input, one a line; answers one JSON line each.
"""

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed.networks import LEARNING_RATE, MEAN, MOMENTUM, STD, Network

Step = Callable[[], float]
"""Run once, wait for the result, return a number that shows what was computed."""


def segjax_step(network: Network, variables: Any, model: Any) -> tuple[Any, Any, Any]:
    """The train step of segjax.step, without augmentation; its state and its batch."""
    import jax
    import optax

    from segjax import sharding
    from segjax.augment import Augment
    from segjax.losses import build_loss
    from segjax.step import TrainState, make_train_step

    tx, mesh = optax.sgd(LEARNING_RATE, MOMENTUM), sharding.make_mesh()

    def fresh(variables):
        return TrainState(
            step=jax.numpy.zeros((), jax.numpy.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=tx.init(variables["params"]),
        )

    shardings = sharding.state_sharding(jax.eval_shape(fresh, variables), mesh)
    step = make_train_step(
        model,
        tx,
        build_loss("cross_entropy"),
        Augment(out_size=(network.size, network.size), mean=MEAN, std=STD),
        mesh,
        shardings,
        num_classes=network.classes,
        seed=0,
    )
    example = network.example()
    state = jax.jit(fresh, out_shardings=shardings)(variables)
    return step, state, lambda: sharding.to_devices(example, mesh)


def segjax_training(network: Network, weights: str) -> Step:
    """:func:`segjax_step` from the common weights."""
    import jax

    from benchmarks.speed.networks import variables_of
    from segjax.step import compile_step

    model = network.segjax()
    variables = variables_of(model, weights)
    jax.clear_caches()  # of loading them, for which many functions were traced
    jitted, state, batch = segjax_step(network, variables, model)
    del variables
    step, held = compile_step(jitted, state, batch()), [state]
    del state

    def run() -> float:
        held[0], metrics = step(held[0], batch())
        jax.block_until_ready(held[0])
        return float(metrics["loss"])

    return run


def segjax_inference(network: Network, weights: str) -> Step:
    """Batch norms folded, kernels arranged ahead; classes of the pixels on the host."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks.speed.networks import variables_of
    from segjax.models import compute_ahead, fold_batch_norm

    model = network.segjax()
    folded, variables = fold_batch_norm(model, variables_of(model, weights))
    image = network.image()

    def classes(variables, image):
        logits = folded.apply(variables, image, train=False)
        return jnp.argmax(logits, -1).astype(jnp.uint8)

    rest, prepared = compute_ahead(classes, variables, image)
    jitted = jax.jit(rest)
    return lambda: float(np.asarray(jitted(prepared, image)).mean())


def torch_model(network: Network, weights: str):
    """SMP's model with the weights, channels last, as many threads as processors."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = network.torch()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.to(memory_format=torch.channels_last)  # type: ignore


def torch_training(network: Network, weights: str, compiled: bool = False) -> Step:
    """The same step: normalise, forward, loss, backward, SGD with momentum."""
    import torch

    model = torch_model(network, weights).train()
    run_model: Any = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
    example = network.example()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))

    def run() -> float:
        # A view of [B, H, W, C] is channels last already.
        image = torch.from_numpy(example["image"]).permute(0, 3, 1, 2)
        image = (image.float() / 255 - mean) / std
        label = torch.from_numpy(example["label"]).long()
        logits = run_model(image)
        loss = torch.nn.functional.cross_entropy(logits, label, ignore_index=255)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return run


def torch_inference(network: Network, weights: str, compiled: bool = False) -> Step:
    """In inference mode; compiled with the weights as constants."""
    import torch

    model = torch_model(network, weights).eval()
    image = torch.from_numpy(network.image()).permute(0, 3, 1, 2)
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True  # folds batch norms too
        model = torch.compile(model)

    def run() -> float:
        with torch.inference_mode():
            return float(model(image).argmax(1).to(torch.uint8).numpy().mean())

    return run


SIDES = {
    ("segjax", "training"): segjax_training,
    ("segjax", "inference"): segjax_inference,
    ("torch", "training"): torch_training,
    ("torch", "inference"): torch_inference,
    ("compile", "training"): lambda n, w: torch_training(n, w, compiled=True),
    ("compile", "inference"): lambda n, w: torch_inference(n, w, compiled=True),
}


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status: VmHWM, VmRSS."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {name}")


def forget_peak() -> None:
    """Let VmHWM begin anew: what was compiled and loaded is not the step's."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    spec = json.loads(sys.argv[1])
    network = Network(**spec["network"])
    if spec["side"] == "segjax":
        from segjax.cache import keep_compiled

        keep_compiled()
    answer = sys.stdout
    sys.stdout = sys.stderr  # whatever the packages print
    begin = time.perf_counter()
    step = SIDES[spec["side"], spec["task"]](network, spec["weights"])
    first = step()
    ready = {"first": first, "start_seconds": time.perf_counter() - begin}
    step()
    forget_peak()
    print(json.dumps(ready), file=answer, flush=True)
    for line in sys.stdin:
        if line.strip() == "peak":
            found: dict[str, Any] = {"peak": status("VmHWM")}
        else:
            step()  # brings code and data back into the caches
            seconds = []
            for _ in range(int(line.split()[1])):
                begin = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - begin)
            found = {"seconds": seconds}
        print(json.dumps(found), file=answer, flush=True)


if __name__ == "__main__":
    main()
