"""The networks of the library in plain torch."""

from functools import partial

import torch
from torch import nn

__all__ = [
    "alexnet",
    "conv",
    "dc_convnet",
    "mlp",
    "mobilenet_v2",
    "norm",
    "resnet18",
    "vgg11",
]


def conv(
    shape: torch.Size,
    classes: int,
    *,
    width: int,
    depth: int,
    normalization: str,
    padding: int,
) -> nn.Module:
    """Return FRePo's network: the channels double with every block."""
    layers: list[nn.Module] = [nn.ZeroPad2d(padding)]
    channels = shape[0]
    for block in range(depth):
        if block > 0:
            layers.append(norm(normalization, channels))
        outputs = width * 2**block
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU()]
        layers.append(nn.AvgPool2d(2))
        channels = outputs
    rows, columns = ((side + 2 * padding) // 2**depth for side in shape[1:])
    head = nn.Linear(channels * rows * columns, classes)
    network = nn.Sequential(*layers, nn.Flatten(), head)
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            deviation = layer.weight[0].numel() ** -0.5 / 0.87962566103423978
            cut = 2 * deviation
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-cut, b=cut)
            nn.init.zeros_(layer.get_parameter("bias"))
    return network


def dc_convnet(
    shape: torch.Size,
    classes: int,
    *,
    width: int,
    depth: int,
    normalization: str,
    padding: int,
) -> nn.Module:
    """Return the ConvNet of Dataset Condensation: every block has the same channels."""
    layers: list[nn.Module] = [nn.ZeroPad2d(padding)]
    for block in range(depth):
        channels = shape[0] if block == 0 else width
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        layers += [norm(normalization, width), nn.ReLU(), nn.AvgPool2d(2)]
    rows, columns = ((side + 2 * padding) // 2**depth for side in shape[1:])
    head = nn.Linear(width * rows * columns, classes)
    return nn.Sequential(*layers, nn.Flatten(), head)


def mlp(
    shape: torch.Size, classes: int, *, width: int, depth: int, normalization: str
) -> nn.Module:
    """Return a multi-layer perceptron on flattened images."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in [shape.numel(), *(depth - 1) * [width]]:
        layers.append(nn.Linear(inputs, width))
        if normalization == "batch":
            layers.append(nn.BatchNorm1d(width, momentum=0.9))
        elif normalization == "layer":
            layers.append(nn.LayerNorm(width))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(width, classes))


def alexnet(
    shape: torch.Size, classes: int, *, width: int, normalization: str
) -> nn.Module:
    """Return the AlexNet of Dataset Condensation."""
    plan = ((1.0, 5, True), (1.5, 5, True), (2.0, 3, False), (1.5, 3, False))
    layers: list[nn.Module] = []
    channels = shape[0]
    for factor, kernel, pooled in (*plan, (1.5, 3, True)):
        outputs = round(factor * width)
        layers.append(nn.Conv2d(channels, outputs, kernel, padding=kernel // 2))
        layers += [norm(normalization, outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooled else []
        channels = outputs
    head = nn.Linear(channels * (shape[1] // 8) * (shape[2] // 8), classes)
    return nn.Sequential(*layers, nn.Flatten(), head)


def vgg11(
    shape: torch.Size, classes: int, *, width: int, normalization: str
) -> nn.Module:
    """Return VGG11 for small images: pooled while maps keep two pixels a side."""
    layers: list[nn.Module] = []
    channels, side = shape[0], min(shape[1:])
    for stage in ((1,), (2,), (4, 4), (8, 8), (8, 8)):
        for factor in stage:
            layers.append(nn.Conv2d(channels, factor * width, 3, padding=1))
            layers += [norm(normalization, factor * width), nn.ReLU()]
            channels = factor * width
        if side >= 4:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    head = nn.Linear(channels, classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def resnet18(
    shape: torch.Size, classes: int, *, width: int, normalization: str
) -> nn.Module:
    """Return ResNet18 for small images: torchvision's blocks, a stem of 3x3."""
    from torchvision.models.resnet import BasicBlock

    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1, bias=False)]
    layers += [norm(normalization, width), nn.ReLU()]
    channels, side = width, min(shape[1:])
    for stage in range(4):
        outputs, stride = width * 2**stage, 2 if stage > 0 and side >= 4 else 1
        side = -(-side // stride)
        shortcut = None
        if stride > 1 or channels != outputs:
            narrow = nn.Conv2d(channels, outputs, 1, stride, bias=False)
            shortcut = nn.Sequential(narrow, norm(normalization, outputs))
        kind = partial(BasicBlock, norm_layer=partial(norm, normalization))
        layers += [kind(channels, outputs, stride, shortcut), kind(outputs, outputs)]
        channels = outputs
    head = nn.Linear(channels, classes)
    for layer in nn.Sequential(*layers).modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def mobilenet_v2(
    shape: torch.Size, classes: int, *, width: int, normalization: str
) -> nn.Module:
    """Return torchvision's MobileNetV2, with fewer strides."""
    from torchvision.models import MobileNetV2

    plan = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2]]
    plan += [[6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    side = min(shape[1:])
    for stage in plan:
        stage[3] = stage[3] if side >= 4 else 1
        side //= stage[3]
    whole = MobileNetV2(
        width_mult=width / 32,
        inverted_residual_setting=plan,
        norm_layer=partial(norm, normalization),
    )
    stem = whole.features[0]
    stem[0] = nn.Conv2d(shape[0], stem[0].out_channels, 3, padding=1, bias=False)
    head = nn.Linear(whole.last_channel, classes)
    return nn.Sequential(whole.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def norm(kind: str, channels: int) -> nn.Module:
    """Return a normalisation layer."""
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return nn.BatchNorm2d(channels, momentum=0.9)
    return nn.GroupNorm(channels if kind == "instance" else min(32, channels), channels)
