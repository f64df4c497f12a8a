"""Accuracy and loss of a network on pictures."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """`accuracy` (fraction of pictures whose largest logit is the label's) and mean `loss`, in fp32."""
    network.eval()
    correct, loss, seen = 0, 0.0, 0
    for images, labels in batches:
        logits = network(images)
        correct += int((logits.argmax(1) == labels).sum())
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
        seen += len(labels)
    return {"accuracy": correct / seen, "loss": loss / seen}
