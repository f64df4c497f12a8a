"""The ResNets for CIFAR: three stages of basic blocks, shortcuts without parameters."""

import torch.nn.functional as F
from torch import Tensor, nn


class Shortcut(nn.Module):
    """Option A: keep every `stride`-th pixel, and pad the channels with zeros, equally on both sides.

    Input (N, C, H, W), output (N, C', ceil(H / stride), ceil(W / stride)). The paper does not say where
    the zero channels go; the published weights were trained with half of them on each side.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, outputs - inputs

    def forward(self, features: Tensor) -> Tensor:
        if self.stride == 1 and self.added == 0:
            return features
        before = self.added // 2
        kept = features[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, before, self.added - before))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with norms, added to the shortcut; (N, C, H, W) to (N, C', H', W')."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = Shortcut(inputs, outputs, stride)
        self.activation = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.activation(self.bn1(self.conv1(features)))
        return self.activation(self.bn2(self.conv2(hidden)) + self.shortcut(features))


class CifarResNet(nn.Module):
    """6 `blocks` + 2 layers; 464,154 parameters for 5 blocks a stage and ten classes, 853,018 for 9.

    Input (N, 3, H, W), made for 32x32 pixels; output (N, classes) logits. The names are those of the
    weights published at https://github.com/akamaster/pytorch_resnet_cifar10. Source: He et al.,
    Deep Residual Learning for Image Recognition, 2016, section 4.2; initial weights: He et al., 2015.
    """

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.activation = nn.ReLU()
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.activation(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.linear(hidden.mean((2, 3)))


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def resnet32(classes: int = 10) -> nn.Module:
    """Five blocks a stage."""
    return CifarResNet(5, classes)


def resnet56(classes: int = 10) -> nn.Module:
    """Nine blocks a stage."""
    return CifarResNet(9, classes)
