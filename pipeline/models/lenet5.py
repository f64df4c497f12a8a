"""LeNet-5 as in Caffe: two 5x5 convolutions with pooling, then two linear layers."""

from torch import Tensor, nn


class LeNet5(nn.Module):
    """430,500 weights and 580 biases for one input channel, 28x28 pixels and ten classes.

    Input (N, 1, 28, 28), output (N, classes) logits. The Caffe network has a ReLU only after the
    first linear layer; `relu` adds one after each convolution. Source: Caffe's lenet example.
    """

    def __init__(self, classes: int = 10, relu: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, classes)
        self.pool = nn.MaxPool2d(2)
        self.after_convolution = nn.ReLU() if relu else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.after_convolution(self.pool(self.conv1(images)))
        hidden = self.after_convolution(self.pool(self.conv2(hidden)))
        return self.fc2(self.activation(self.fc1(hidden.flatten(1))))
