"""ResNet-50 as torchvision has it."""

import torchvision.models
from torch import nn


def resnet50(classes: int = 1000) -> nn.Module:
    """25,557,032 parameters for 1,000 classes; input (N, 3, H, W), output (N, classes) logits.

    Stride 2 stands in a block's 3x3 convolution ("v1.5"). Source: torchvision.models.resnet50.
    """
    return torchvision.models.resnet50(num_classes=classes)
