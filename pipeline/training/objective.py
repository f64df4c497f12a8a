"""What is minimised: cross-entropy, and optionally the distance to a teacher's softened answers."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional


class CrossEntropy:
    """Mean cross-entropy of a batch."""

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor, indices: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels)


class Distillation:
    """(1 - a) cross-entropy + a T^2 KL(teacher || student), both softened by the temperature T.

    Source: Hinton, Vinyals, Dean 2015. `answers` are the teacher's logits (N, classes) of the
    training pictures, where these are the same every epoch; without, the teacher is asked each time.
    """

    def __init__(self, teacher: nn.Module, weight: float, temperature: float, answers: Tensor | None = None) -> None:
        self.teacher = teacher.eval()
        self.weight, self.temperature, self.answers = weight, temperature, answers

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor, indices: Tensor) -> Tensor:
        with torch.no_grad():
            answers = self.teacher(images) if self.answers is None else self.answers[indices].to(logits.device)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # in bf16 the divergence can be negative
        divergence = functional.kl_div(
            functional.log_softmax(logits / self.temperature, 1),
            functional.log_softmax(answers.float() / self.temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        plain = functional.cross_entropy(logits, labels)
        return (1 - self.weight) * plain + self.weight * self.temperature**2 * divergence


@torch.no_grad()
def answers_of(teacher: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The logits (N, classes) of all batches, in their order, on the CPU."""
    teacher.eval()
    like = next(teacher.parameters())
    return torch.cat([teacher(images.to(like)).cpu() for images, _ in batches])
