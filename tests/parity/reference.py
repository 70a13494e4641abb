"""Reference models with every tensor random, and their runs, shared by parity tests."""

import numpy as np


def randomize(model, seed: int = 0):
    """Make every float tensor random, so that no tensor can be wrong unseen.

    Weights by Kaiming's spread, gains U(.5, 1.5), biases and running means N(0, .5),
    running variances U(.5, 2).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.ndim > 1:
                sigma = (2 / tensor[0].numel()) ** 0.5
                tensor.normal_(0, sigma, generator=generator)
            elif name.endswith("weight"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0, 0.5, generator=generator)
    return model.eval()


def to_nchw(image: np.ndarray):
    """[B, H, W, C] as a torch tensor [B, C, H, W]."""
    import torch

    return torch.from_numpy(image.transpose(0, 3, 1, 2).copy())


def run(model, image: np.ndarray) -> np.ndarray:
    """[B, H, W, C] -> [B, H, W, K] by a torch model in evaluation mode."""
    import torch

    with torch.no_grad():
        return model(to_nchw(image)).permute(0, 2, 3, 1).numpy()


def relative_error(found, wanted) -> float:
    """max |found - wanted| / max |wanted|."""
    wanted = np.asarray(wanted)
    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())
