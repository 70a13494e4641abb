"""One training step of a ResNet-18 U-Net in PyTorch and SMP, written to one_step.json.

python -m tests.golden.make_one_step

float64; batch norm in training mode; mean cross-entropy over the pixels that are not
255; AdamW with decoupled decay on the weights of rank 2 and more only.
"""

import json
from pathlib import Path

from tests.golden import inputs

PATH = Path(__file__).with_name("one_step.json")


def compute() -> dict[str, float]:
    """Loss, gradient norm, update norm and two sums of what the step left behind."""
    import segmentation_models_pytorch as smp
    import torch

    model = smp.Unet("resnet18", encoder_weights=None, classes=inputs.CLASSES)
    model.load_state_dict(
        {
            name: torch.from_numpy(inputs.tensor(name, tuple(value.shape)))
            if value.is_floating_point()
            else value
            for name, value in model.double().state_dict().items()
        }
    )
    model.train()
    images, labels = inputs.batch()
    logits = model(torch.from_numpy(images).double().permute(0, 3, 1, 2))
    loss = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(labels).long(), ignore_index=255
    )
    loss.backward()
    parameters = list(model.parameters())
    before = [p.detach().clone() for p in parameters]
    gradient_norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters))
    groups = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, inputs.LR, weight_decay=inputs.WEIGHT_DECAY).step()
    update_norm = torch.sqrt(
        sum(((p - q) ** 2).sum() for p, q in zip(parameters, before, strict=True))
    )
    buffers = dict(model.named_buffers())
    return {
        "loss": loss.item(),
        "gradient_norm": gradient_norm.item(),
        "update_norm": update_norm.item(),
        "running_mean_sum": sum(
            b.sum().item() for n, b in buffers.items() if n.endswith("running_mean")
        ),
        "running_var_sum": sum(
            b.sum().item() for n, b in buffers.items() if n.endswith("running_var")
        ),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(compute(), indent=2) + "\n")
