"""What attribution differentiates: a number read off the logits of the last position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

ObjectiveKind = Literal["probability", "log_probability", "logit_difference"]
"""P(right answer), the paper's; its logarithm; the right answer's logit minus the wrong one's."""


@dataclass(frozen=True)
class Objective:
    """What is differentiated: a number read off the logits of the last position."""

    right: int
    """Token id of the right answer."""
    wrong: int | None = None
    """Token id of the wrong answer; only the logit difference uses and needs it."""
    kind: ObjectiveKind = "probability"
    """``probability`` P(right) (the paper's), ``log_probability`` or ``logit_difference``
    (right minus wrong)."""

    def __post_init__(self) -> None:
        if self.kind == "logit_difference" and self.wrong is None:
            raise ValueError("a logit difference needs a second token to subtract.")

    def value(self, logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
        """The objective of each row, differentiable."""
        if self.kind == "logit_difference":
            return logits[:, self.right] - logits[:, self.wrong]
        log_probability = logits.log_softmax(-1)[:, self.right]
        return log_probability.exp() if self.kind == "probability" else log_probability

    def value_and_gradient(
        self, logits: Float[Tensor, "row d_vocab"]
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, "row d_vocab"]]:
        """`value` and its derivative in closed form, without autograd over the vocabulary."""
        if self.kind == "logit_difference":
            gradient = torch.zeros_like(logits)
            gradient[:, self.right] = 1.0
            gradient[:, self.wrong] = -1.0
            return self.value(logits), gradient
        gradient = logits.softmax(-1)
        probability = gradient[:, self.right].clone()
        if self.kind == "probability":  # p_right times (onehot - p)
            gradient *= -probability[:, None]
            gradient[:, self.right] += probability
            return probability, gradient
        gradient.neg_()
        gradient[:, self.right] += 1
        return logits[:, self.right] - logits.logsumexp(-1), gradient
