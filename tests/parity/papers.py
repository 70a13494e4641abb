"""FCN, SegNet and SegNet-Basic in plain PyTorch, written from the papers.

Imports torch at the top: import this module inside a test only.
"""

import torchvision
from torch import nn
from torch.nn import functional as F


def bilinear(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def fc6_fc7(channels, width):
    """VGG's dense layers 6 and 7 as convolutions, size kept."""
    return nn.ModuleDict(
        {
            "fc6": nn.Conv2d(channels, width, 7, padding=3),
            "fc7": nn.Conv2d(width, width, 1),
        }
    )


class VGGFeatures(nn.Module):
    """torchvision's VGG: pool3, pool4, pool5 (strides 8, 16, 32)."""

    channels = (256, 512, 512)

    def __init__(self, name):
        super().__init__()
        letters = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
        plain, *norm = name.split("_")
        vgg = torchvision.models.vgg
        config = vgg.cfgs[letters[plain]]
        self.features = vgg.make_layers(config, batch_norm=bool(norm))

    def forward(self, x):
        pooled = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pooled.append(x)
        return pooled[2:]


class ResNetFeatures(nn.Module):
    """torchvision's ResNet-18: layer2, layer3, layer4 (strides 8, 16, 32)."""

    channels = (128, 256, 512)

    def __init__(self):
        super().__init__()
        net = torchvision.models.resnet18(weights=None)
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"):
            setattr(self, name, getattr(net, name))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer1(F.max_pool2d(x, 3, 2, 1))
        y = self.layer2(x)
        z = self.layer3(y)
        return [y, z, self.layer4(z)]


class FCN(nn.Module):
    """FCN-32s, 16s or 8s (``finest``), with fc6 and fc7 of a width, or without (0)."""

    def __init__(self, encoder, classes, finest, width):
        super().__init__()
        self.encoder, self.finest = encoder, finest
        third, fourth, fifth = encoder.channels
        self.decoder = fc6_fc7(fifth, width) if width else nn.ModuleDict()
        score = nn.Conv2d(width or fifth, classes, 1)
        if finest == 32:
            self.segmentation_head = nn.Sequential(score)
            return
        self.decoder["score32"] = score
        for stride, channels in ((16, fourth), (8, third)):
            if stride >= finest:
                self.decoder[f"score{stride}"] = nn.Conv2d(channels, classes, 1)
                self.decoder[f"upscore{stride}"] = nn.ConvTranspose2d(
                    classes, classes, 4, stride=2, padding=1, bias=False
                )

    def forward(self, image):
        third, fourth, x = self.encoder(image)
        parts = self.decoder
        if "fc6" in parts:
            x = F.dropout(F.relu(parts["fc6"](x)), 0.5, self.training)
            x = F.dropout(F.relu(parts["fc7"](x)), 0.5, self.training)
        if self.finest == 32:
            return bilinear(self.segmentation_head(x), image.shape[2:])
        x = parts["score32"](x)
        for stride, skip in ((16, fourth), (8, third)):
            if stride >= self.finest:
                x = bilinear(parts[f"upscore{stride}"](x), skip.shape[2:])
                x = x + parts[f"score{stride}"](skip)
        return bilinear(x, image.shape[2:])


class Unpooling(nn.Module):
    """VGG features down; up by the poolings' indices, through a stage for each.

    ``relu``: after every batch norm on the way up.
    """

    relu = True

    def forward(self, x):
        pooled = []
        for layer in self.encoder.features:
            if isinstance(layer, nn.MaxPool2d):
                size = x.shape
                x, indices = F.max_pool2d(x, 2, return_indices=True)
                pooled.append((indices, size))
            else:
                x = layer(x)
        for number, (indices, size) in reversed(list(enumerate(pooled, start=1))):
            x = F.max_unpool2d(x, indices, 2, output_size=size)
            stage = self.decoder[f"stage{number}"]
            for name, layer in stage.items():
                x = layer(x)
                if self.relu and name.startswith("bn"):
                    x = F.relu(x)
        return self.segmentation_head(x)


class SegNet(Unpooling):
    """VGG with batch norm, and its mirror image with the poolings' indices."""

    def __init__(self, name, classes):
        super().__init__()
        self.encoder = VGGFeatures(name)
        widths = [[]]
        for layer in self.encoder.features:
            if isinstance(layer, nn.Conv2d):
                widths[-1].append((layer.in_channels, layer.out_channels))
            elif isinstance(layer, nn.MaxPool2d):
                widths.append([])
        self.decoder = nn.ModuleDict()
        for number, stage in enumerate(widths[:-1], start=1):
            layers = nn.ModuleDict()
            for i, (out, channels) in reversed(list(enumerate(stage, start=1))):
                if (number, i) != (1, 1):  # the classifier
                    layers[f"conv{i}"] = nn.Conv2d(
                        channels, out, 3, padding=1, bias=False
                    )
                    layers[f"bn{i}"] = nn.BatchNorm2d(out)
            self.decoder[f"stage{number}"] = layers
        self.segmentation_head = nn.Sequential(nn.Conv2d(64, classes, 3, padding=1))


class SegNetBasicOfVGG(Unpooling):
    """VGG with batch norm, and up again as SegNet-Basic."""

    relu = False

    def __init__(self, name, classes):
        super().__init__()
        self.encoder = VGGFeatures(name)
        convolutions = [x for x in self.encoder.features if not isinstance(x, nn.ReLU)]
        widths = [
            before.num_features
            for before, x in zip(convolutions, convolutions[1:], strict=False)
            if isinstance(x, nn.MaxPool2d)
        ]
        self.decoder = nn.ModuleDict()
        for i, width in enumerate(widths):
            out = widths[max(i - 1, 0)]
            self.decoder[f"stage{i + 1}"] = nn.ModuleDict(
                {
                    "conv1": nn.Conv2d(width, out, 7, padding=3, bias=False),
                    "bn1": nn.BatchNorm2d(out),
                }
            )
        self.segmentation_head = nn.Sequential(nn.Conv2d(widths[0], classes, 1))


class SegNetBasic(nn.Module):
    """Four 7x7 convolutions of 64 down and four up, no ReLU on the way up."""

    def __init__(self, classes, width=64):
        super().__init__()
        self.encoder, self.decoder = nn.ModuleDict(), nn.ModuleDict()
        for i in range(1, 5):
            channels = width if i > 1 else 3
            self.encoder[f"conv{i}"] = nn.Conv2d(
                channels, width, 7, padding=3, bias=False
            )
            self.encoder[f"bn{i}"] = nn.BatchNorm2d(width)
            self.decoder[f"stage{i}"] = nn.ModuleDict(
                {
                    "conv1": nn.Conv2d(width, width, 7, padding=3, bias=False),
                    "bn1": nn.BatchNorm2d(width),
                }
            )
        self.segmentation_head = nn.Sequential(nn.Conv2d(width, classes, 1))

    def forward(self, x):
        pooled = []
        for i in range(1, 5):
            x = F.relu(self.encoder[f"bn{i}"](self.encoder[f"conv{i}"](x)))
            size = x.shape
            x, indices = F.max_pool2d(x, 2, return_indices=True)
            pooled.append((indices, size))
        for i in range(4, 0, -1):
            indices, size = pooled[i - 1]
            x = F.max_unpool2d(x, indices, 2, output_size=size)
            stage = self.decoder[f"stage{i}"]
            x = stage["bn1"](stage["conv1"](x))
        return self.segmentation_head(x)
