"""The attacks that gradient masking is told by: one that papers print, which masking stops, and one without gradients
of the network, which it can't stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.attacks.balls import BALLS, project_l1
from lipcert.attacks.batch import Answer, choose, per_image, rescaled, wrong_by
from lipcert.attacks.settings import radius_of
from lipcert.contracts import Norm

SPARSE = 0.01  # of the pixels, those with the largest gradients: what a step in l1 moves
AT_ONCE = 250  # images whose answers are asked for together


@dataclass(kw_only=True)
class PlainGradient:
    """`attack(answer, x, y, eps, start)` returns images after `steps` gradient steps: PGD as papers print it.

    norm          of the steps and of the ball; a step in l1 moves the `SPARSE` pixels with the largest gradients
    steps         their number
    rel_stepsize  a step's length / eps
    loss          "ce", the cross-entropy of the logits as they are, or "margin", the largest wrong logit minus the
                  label's, of logits that are rescaled image by image

    It begins at `start`, images of the ball, or else at x. Nothing protects "ce" from masking: it is computed in the
    precision of the network, and where its gradient is 0 or not finite no step is taken. This measures masking. To
    attack, take `ProjectedGradient`.
    """

    norm: Norm
    steps: int = 40
    rel_stepsize: float = 1 / 30
    loss: str = "ce"
    eps: Sequence[float] | None = None
    batch_size: int = 250
    images: int | None = None
    label: str = field(init=False)

    def __post_init__(self) -> None:
        self.label = f"plain_{self.norm}-{self.steps}-{self.loss}"

    def __call__(
        self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None, start: Tensor | None = None
    ) -> Tensor:
        x = x.detach()
        radius, found = radius_of(self, eps, x), x if start is None else start
        for _ in range(self.steps):
            step = self._steepest(gradient(answer, found, y, self.loss)[0].nan_to_num(0.0, 0.0, 0.0))
            found = inside(self.norm, found + self.rel_stepsize * radius * step, x, radius)
        return found

    def _steepest(self, slope: Tensor) -> Tensor:
        if self.norm is not Norm.L1:
            return BALLS[self.norm].steepest(slope)
        size = slope.abs().flatten(1)
        count = max(1, int(SPARSE * size.shape[1]))
        chosen = slope.abs() >= per_image(size.topk(count).values[:, -1], slope)
        return slope.sign() * chosen / count


def inside(norm: Norm, images: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """The images (B, ...) of [0, 1] within `radius` (B, 1, ...) of x that are nearest to `images`, or close to that."""
    if norm is Norm.L1:
        return (x + project_l1(images - x, radius, x)).clamp(0, 1)
    return (x + radius * BALLS[norm].project((images - x) / radius)).clamp(0, 1)


def random_start(norm: Norm, x: Tensor, eps: float) -> Tensor:
    """A random image within eps of each x (B, ...): uniform in the ball, or in l1 on the sphere."""
    if norm is not Norm.L1:
        return (x + eps * BALLS[norm].random(x)).clamp(0, 1)
    sizes = -torch.rand_like(x).clamp_min(1e-30).log()
    return (x + eps * sizes / per_image(sizes.flatten(1).sum(1), x) * torch.randn_like(x).sign()).clamp(0, 1)


@torch.enable_grad()
def gradient(answer: Answer, x: Tensor, y: Tensor, loss: str = "ce") -> tuple[Tensor, Tensor]:
    """The gradient of the loss at the images x (B, ...), each by itself, and the logits there (B, K)."""
    x = x.detach().requires_grad_()
    logits = answer(x)
    value = F.cross_entropy(logits, y, reduction="sum") if loss == "ce" else wrong_by(rescaled(logits, 4.0), y).sum()
    return torch.autograd.grad(value, x)[0], logits.detach()


@dataclass(kw_only=True)
class Transfer:
    """`attack(answer, x, y, eps)` returns adversarial images of a small ordinary network, which is trained on the
    answers alone (Papernot et al., 2017): no gradient of `answer` is looked at.

    norm    of the ball
    rounds  in each, the small network is trained on all answers known so far, and attacked from the clean images; what
            comes out is asked for in the next round
    epochs  of training a round

    Of the images of all rounds, one that is misclassified is returned where there is one. A result depends on its
    batch, whose images the small network is trained on: give it many at once.
    """

    norm: Norm
    rounds: int = 4
    epochs: int = 20
    width: int = 256
    eps: Sequence[float] | None = None
    batch_size: int = 1 << 16
    images: int | None = None
    label: str = field(init=False)

    def __post_init__(self) -> None:
        self.label = f"transfer_{self.norm}-{self.rounds}"

    @torch.enable_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        x, attack = x.detach(), PlainGradient(norm=self.norm, loss="margin", rel_stepsize=0.1)
        with torch.no_grad():
            clean = torch.cat([answer(part) for part in x.split(AT_ONCE)])
        known, answers, best = x.float(), clean.argmax(1), x
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(x.shape[1:]), self.width),
            nn.ReLU(),
            nn.Linear(self.width, clean.shape[1]),
        ).to(x.device)
        for _ in range(self.rounds):
            self._train(model, known, answers)
            found = attack(model, x.float(), y, None if eps is None else eps.float())
            with torch.no_grad():
                said = torch.cat([answer(part).argmax(1) for part in found.to(x.dtype).split(AT_ONCE)])
            best = choose(said != y, found.to(x.dtype), best)
            known, answers = torch.cat([known, found]), torch.cat([answers, said])
        return best

    def _train(self, model: nn.Module, images: Tensor, answers: Tensor) -> None:
        """By gradient descent with momentum."""
        weights = list(model.parameters())
        momenta = [torch.zeros_like(weight) for weight in weights]
        for _ in range(self.epochs * math.ceil(len(images) / 100)):
            rows = torch.randint(len(images), (100,), device=images.device)
            slopes = torch.autograd.grad(F.cross_entropy(model(images[rows]), answers[rows]), weights)
            with torch.no_grad():
                for weight, momentum, slope in zip(weights, momenta, slopes, strict=True):
                    weight.sub_(0.05 * momentum.mul_(0.9).add_(slope))
