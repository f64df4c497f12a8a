"""Accuracy and loss of a network on pictures."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def device_for(accelerator: str) -> torch.device:
    """Where one process alone evaluates: on the first GPU if asked for and there is one, else on the CPU."""
    return torch.device("cuda" if accelerator == "cuda" and torch.cuda.is_available() else "cpu")


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    total: Callable[[Sequence[float]], list[float]] = list,
) -> dict[str, float]:
    """`accuracy` (fraction of pictures whose largest logit is the label's) and mean `loss`, without autocast.

    `total` sums each of several figures over all processes that evaluate a part of the pictures each.
    """
    network.eval()
    like = next(network.parameters())
    correct, loss, seen = 0, 0.0, 0
    for images, labels in batches:
        logits, answers = network(images.to(like)), labels.to(like.device)
        correct += int((logits.argmax(1) == answers).sum())
        loss += float(functional.cross_entropy(logits, answers, reduction="sum"))
        seen += len(labels)
    correct, loss, seen = total([correct, loss, seen])
    return {"accuracy": correct / seen, "loss": loss / seen}
