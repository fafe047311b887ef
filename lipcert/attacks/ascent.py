"""The ascents of AutoPGD: a batch that climbs, each image with a step of its own that is cut where it stops rising.

`Dense` is the ascent in l2 and l_inf (Croce & Hein, ICML 2020), `Sparse` the one in l1 (Croce & Hein, ICML 2021).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lipcert.attacks.balls import BALLS, inside
from lipcert.attacks.batch import Answer, choose, direction, lead_of, per_image, rescaled
from lipcert.attacks.objectives import Objective
from lipcert.contracts import Norm

SPAN = 10.0  # of the logits that the loss sees: the spread of those of the clean image
MOMENTUM = 0.75  # weight of the new step; the rest is that of the way that the last one went
RISING = 0.75  # the fraction of steps that must raise the loss


class Climb:
    """Images that climb, and what is known of each. Tensors are (B, ...); `keep` leaves images behind.

    rows           their numbers in the batch that the attack was given
    x, y, target   clean images, labels, and the classes aimed at, if any
    clean          the logits of x
    radius         (B, 1, ...)
    point, before  where they are, and where they were a step ago
    gradient, loss, lead  at `point`: of what is made large, its value, and by how much the image is wrong
    top, top_gradient, top_loss  the same where the loss was largest
    step           lengths of steps, (B, 1, ...)
    differ, moving  of `Sparse`: how many pixels of the tops differed from x when steps were last checked, and how many
                   a step moves
    checked        `top_loss` when steps were last checked
    rises          how many steps have raised the loss since then
    cut            whether the step was cut then
    """

    radius: Tensor
    point: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    lead: Tensor
    top: Tensor
    top_gradient: Tensor
    top_loss: Tensor
    step: Tensor
    differ: Tensor
    moving: Tensor
    checked: Tensor
    rises: Tensor
    cut: Tensor

    def __init__(
        self,
        answer: Answer,
        objective: Objective,
        rows: Tensor,
        x: Tensor,
        y: Tensor,
        clean: Tensor,
        target: Tensor | None,
    ):
        self.answer, self.objective = answer, objective
        self.rows, self.x, self.y, self.clean, self.target = rows, x, y, clean, target

    def place(self, point: Tensor, radius: Tensor) -> None:
        """Puts the images at `point`, where their climb begins."""
        self.radius, self.point, self.before, self.top = radius, point, point, point
        self._look()
        self.top_gradient, self.top_loss, self.checked = self.gradient, self.loss, self.loss
        self.rises, self.cut = torch.zeros_like(self.rows), torch.ones_like(self.rows, dtype=torch.bool)

    def move(self, point: Tensor) -> None:
        """Moves them on."""
        last = self.loss
        self.before, self.point = self.point, point
        self._look()
        self.rises = self.rises + (self.loss > last)
        higher = self.loss > self.top_loss
        self.top = choose(higher, self.point, self.top)
        self.top_gradient = choose(higher, self.gradient, self.top_gradient)
        self.top_loss = torch.where(higher, self.loss, self.top_loss)

    def back_to_top(self, rows: Tensor) -> None:
        """Puts the images `rows` (B,) where their loss was largest."""
        self.point, self.gradient = choose(rows, self.top, self.point), choose(rows, self.top_gradient, self.gradient)

    def keep(self, rows: Tensor) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])

    @torch.enable_grad()
    def _look(self) -> None:
        """Computes what is known of `point`."""
        start = self.point.detach().requires_grad_()
        logits = self.answer(start)
        loss = self.objective(rescaled(logits, SPAN, like=self.clean), self.y, self.target)
        (gradient,) = torch.autograd.grad(loss.sum(), start)
        self.gradient, self.loss = direction(gradient), loss.detach().nan_to_num(-torch.inf)
        self.lead = lead_of(logits.detach(), self.clean, self.y)


class Dense:
    """Steps of momentum along the whole gradient. A step is halved, and the image goes back to its top, where at most
    `RISING` of the steps raised the loss, or where the top is that of the last check, which cut no step."""

    def __init__(self, norm: Norm):
        self.norm = norm

    def random(self, x: Tensor, radius: Tensor) -> Tensor:
        return (x + radius * BALLS[self.norm].random(x)).clamp(0, 1)

    def begin(self, climb: Climb, random: bool) -> None:
        climb.step = 2 * climb.radius

    def move(self, climb: Climb, first: bool) -> None:
        at, x, radius = climb.point, climb.x, climb.radius
        new = inside(self.norm, at + climb.step * BALLS[self.norm].steepest(climb.gradient), x, radius)
        if not first:
            new = inside(self.norm, at + MOMENTUM * (new - at) + (1 - MOMENTUM) * (at - climb.before), x, radius)
        climb.move(new)

    def windows(self, steps: int) -> Iterator[int]:
        """After how many steps they are checked, and after how many more: ever more often."""
        window = max(int(0.22 * steps), 1)
        while True:
            yield window
            window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))

    def check(self, climb: Climb, window: int) -> None:
        cut = (climb.rises <= RISING * window) | (~climb.cut & (climb.checked >= climb.top_loss))
        climb.step = torch.where(per_image(cut, climb.step), climb.step / 2, climb.step)
        climb.back_to_top(cut)
        climb.cut, climb.checked, climb.rises = cut, climb.top_loss, torch.zeros_like(climb.rises)


class Sparse:
    """Steps that move the pixels with the largest gradients alone, all by as much: two thirds as many as differ at the
    top. Where the top has become sparser, the image goes back to it and takes whole steps again; else steps shrink."""

    SHARE, SHRINK, SMALLEST = 0.2, 1.5, 0.1  # of the pixels that move at first; of a step; a step, of the radius

    def random(self, x: Tensor, radius: Tensor) -> Tensor:
        return inside(Norm.L1, x + torch.randn_like(x), x, radius)

    def begin(self, climb: Climb, random: bool) -> None:
        differ, pixels = self._differ(climb), float(climb.x[0].numel())
        climb.step = climb.radius
        climb.differ = torch.full_like(differ, pixels) if random else differ
        climb.moving = torch.full_like(differ, self.SHARE * pixels) if random else differ / 1.5

    def move(self, climb: Climb, first: bool) -> None:
        size = climb.gradient.abs().flatten(1)
        rank = size.shape[1] - climb.moving.long().clamp(1, size.shape[1])
        least = size.sort(1).values.gather(1, rank[:, None])[:, 0]
        signs = climb.gradient.sign() * (climb.gradient.abs() >= per_image(least, climb.gradient))
        step = climb.step / per_image(signs.abs().flatten(1).sum(1), signs)
        climb.move(inside(Norm.L1, climb.point + step * signs, climb.x, climb.radius))

    def windows(self, steps: int) -> Iterator[int]:
        while True:
            yield max(int(0.04 * steps), 1)

    def check(self, climb: Climb, window: int) -> None:
        differ = self._differ(climb)
        sparser = differ < 0.95 * climb.differ
        climb.differ, climb.moving = differ, differ / 1.5
        shrunk = (climb.step / self.SHRINK).maximum(self.SMALLEST * climb.radius)
        climb.step = torch.where(per_image(sparser, shrunk), climb.radius, shrunk)
        climb.back_to_top(sparser)

    def _differ(self, climb: Climb) -> Tensor:
        """How many pixels of the tops differ from the clean images, (B,)."""
        return (climb.top != climb.x).flatten(1).sum(1).to(climb.loss.dtype)
