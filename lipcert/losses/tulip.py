"""TULIP (Finlay, Oberman & Abbasi, 2018): training on images one step away, and a penalty on the loss's gradient."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.frozen.products import NormOfProduct, ProductOfNorms
from lipcert.losses.accuracy import accuracy

Losses = Callable[[Tensor], Tensor]  # from images (B, ...) to the cross-entropy of each (B,)
Aside = Callable[[], AbstractContextManager[Any]]
GRADIENTS = ("max", "mean_square")  # the penalties on gradients of the loss
PRODUCTS: dict[str, Callable[..., nn.Module]] = {"product_of_norms": ProductOfNorms, "norm_of_product": NormOfProduct}


class Tulip(nn.Module):
    """The mean of CE(x + eps·d), plus a penalty on ‖∇ₓCE‖₂, for images x in [0, 1] and an l2 length `eps`.

    perturbation  d is ∇/‖∇‖₂ ("l2": to first order this adds eps·‖∇‖₂, eq. J2), sign(∇)/√n ("fgsm", J1) or 0 ("none"),
                  where ∇ is the gradient of the image's own CE. There is no clipping and no random start.
    perturbation_mode  of the network while d is computed: "training" or, as in the authors' first code, "evaluation",
                  where normalisations use their running statistics, which d then leaves as they are.
    penalty       "max": penalty_weight·max(max_i ‖∇_i‖₂ − lip_0, 0) over the batch (with several ranks, over a rank's
                  share); "mean_square": penalty_weight/2·mean ‖∇_i‖₂², from the authors' next paper; or "none".
                  "product_of_norms" and "norm_of_product" are the two that section 4.3 finds ineffective:
                  penalty_weight·ln(1 + P), where P is the product of the layers' norms, or the norm of the product of
                  the layers without activations. The logarithm is ours: P spans many orders of magnitude.
    gradient_of   "sum": ∇_i is the gradient of the image's own CE, of the batch's sum; "mean": of the mean of the batch
                  of B images, 1/B of it, as in the authors' first code. It scales the penalty, lip_0's unit and what is
                  logged of ‖∇_i‖₂, and has no effect on d.
    penalty_at    the images at which the penalty is computed: "perturbed", as the CE, or "clean".
    penalty_by    "double_backprop", exact; or "finite_difference", for networks that cannot be differentiated twice:
                  (CE(x + h·v) − CE(x))/h with v = ∇/‖∇‖₂ held constant, or, if `central`,
                  (CE(x + h·v) − CE(x − h·v))/2h. Finite differences run in float32 whatever the precision of training.

    Batch normalisation couples the images of a batch. Then ∇_i is the gradient by image i of the sum of all CE, and
    finite differences move all images at once. The two agree in their sum over the batch, and for each image where
    nothing couples the images.

    Called with the model, images (B, ...) and labels (B,), it returns the loss and its terms, all of them scalars.
    Raises ValueError for a number that makes no sense and, before training, for a model that the penalty cannot train.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        perturbation: Literal["none", "fgsm", "l2"] = "l2",
        eps: float = 0.1,
        perturbation_mode: Literal["training", "evaluation"] = "training",
        penalty: Literal["none", "max", "mean_square", "product_of_norms", "norm_of_product"] = "max",
        penalty_weight: float = 0.1,
        penalty_at: Literal["perturbed", "clean"] = "perturbed",
        penalty_by: Literal["double_backprop", "finite_difference"] = "double_backprop",
        gradient_of: Literal["sum", "mean"] = "sum",
        lip_0: float = 0.0,
        h: float = 1e-2,
        central: bool = False,
    ):
        super().__init__()
        if not all(0 <= value < math.inf for value in (eps, penalty_weight, lip_0)):
            given = f"{eps}, {penalty_weight} and {lip_0}"
            raise ValueError(f"`loss.eps`, `penalty_weight` and `lip_0` must be at least 0, got {given}")
        if not 0 < h < math.inf:
            raise ValueError(f"`loss.h` must be positive, got {h}")
        if lip_0 and penalty != "max":
            raise ValueError(f"`loss.lip_0` is for `loss.penalty=max`, got {lip_0} with {penalty}: leave it at 0")
        self.perturbation, self.eps, self.perturbation_mode = perturbation, eps, perturbation_mode
        self.penalty, self.penalty_weight, self.lip_0 = penalty, penalty_weight, lip_0
        self.penalty_at, self.twice, self.h, self.central = penalty_at, penalty_by == "double_backprop", h, central
        self.of_gradients, self.gradient_of = penalty in GRADIENTS, gradient_of

    def prepare(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        if self.penalty in PRODUCTS:
            try:
                self.estimate: Any = PRODUCTS[self.penalty](model, input_shape)
            except ValueError as error:
                raise ValueError(
                    f"`loss.penalty={self.penalty}` can't train {type(model).__name__}, take max or none: {error}"
                ) from None
        if not self.of_gradients or not self.twice:
            return
        trial, y = copy.deepcopy(model).eval(), torch.zeros(1, dtype=torch.long)
        x = torch.linspace(0, 1, math.prod(input_shape)).view(1, *input_shape)
        steep = self.penalised(partial(cross_entropies, trial, y), x)[1]
        try:
            steep.sum().backward()
        except RuntimeError:
            raise ValueError(
                f"`loss.penalty_by=double_backprop` needs second derivatives, and {type(model).__name__} has none: "
                "take finite_difference"
            ) from None

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        device = x.device.type
        right: list[Tensor] = []  # the accuracy of each answer

        def answer(images: Tensor) -> Tensor:
            logits = model(images)
            right.append(accuracy(logits, y))
            return logits

        with torch.autocast(device, enabled=self.twice and torch.is_autocast_enabled(device)):
            aside = partial(evaluating, model) if self.perturbation_mode == "evaluation" else nullcontext
            seen = self.estimate.captured.watching(model) if self.penalty in PRODUCTS else nullcontext()
            losses, steep = self.losses(answer, x, y, aside, seen)
        moves = self.perturbation != "none"
        last = not self.of_gradients or (moves and self.penalty_at == "clean")  # whether the CE came last of all
        terms = {"cross_entropy": losses.mean(), "accuracy": right[-1 if last else int(moves)]}
        if steep is not None:
            if self.penalty == "max":
                penalty = self.penalty_weight * (steep.amax() - self.lip_0).clamp_min(0)
            else:
                penalty = self.penalty_weight / 2 * steep.square().mean()
            terms |= {"penalty": penalty, "steepest": steep.amax(), "steepness": steep.mean()}
        if self.penalty in PRODUCTS:
            product = self.estimate(model)
            terms |= {"penalty": self.penalty_weight * product.log1p(), "product": product}
        return {"loss": terms["cross_entropy"] + terms.get("penalty", 0.0), **terms}

    def losses(
        self,
        model: Callable[[Tensor], Tensor],
        x: Tensor,
        y: Tensor,
        aside: Aside = nullcontext,
        seen: AbstractContextManager[Any] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The CE of each image at its point of training, and the ‖∇‖₂ to be penalised or None; both (B,).

        model  from images to logits
        aside  the context in which the perturbation is computed
        seen   that in which the network sees the images it is trained on, if no gradient is penalised
        """
        ce = partial(cross_entropies, model, y)
        if self.of_gradients and not self.twice:
            ce = partial(replayed, ce, int(torch.randint(2**62, ())))
        moved = x
        if self.perturbation != "none":
            with aside():
                moved = x + self.eps * self.direction(input_gradient(ce, x)[1])
        if not self.of_gradients:
            with seen or nullcontext():
                return ce(moved), None
        losses, steep = self.penalised(ce, x if self.penalty_at == "clean" else moved)
        if self.penalty_at == "clean" and self.perturbation != "none":
            losses = ce(moved)
        return losses, steep / len(x) if self.gradient_of == "mean" else steep

    def penalised(self, ce: Losses, x: Tensor) -> tuple[Tensor, Tensor]:
        """The CE of each image and its ‖∇‖₂, both (B,) and differentiable."""
        losses, gradient = input_gradient(ce, x, keep=True, twice=self.twice)
        if self.twice:
            return losses, (gradient.flatten(1).square().sum(1) + 1e-20).sqrt()  # has a finite slope at 0
        step = self.h * unit(gradient)
        rise = (ce(x + step) - ce(x - step)) / 2 if self.central else ce(x + step) - losses
        return losses, rise / self.h

    def direction(self, gradient: Tensor) -> Tensor:
        """A step of l2 length 1 for each image; 0 where the gradient is 0."""
        if self.perturbation == "fgsm":
            return gradient.sign() / math.sqrt(gradient[0].numel())
        return unit(gradient)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A network in evaluation inside of this context, and every layer as it was behind it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def cross_entropies(model: Callable[[Tensor], Tensor], y: Tensor, x: Tensor) -> Tensor:
    logits = model(x)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y, reduction="none")


def replayed(ce: Losses, seed: int, x: Tensor) -> Tensor:
    """`ce` at x with the random numbers of `seed`, so that two calls differ by their images and not by dropout."""
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        return ce(x)


def input_gradient(ce: Losses, x: Tensor, keep: bool = False, twice: bool = False) -> tuple[Tensor, Tensor]:
    """The CE (B,) of each image and its gradient (B, ...); with `keep` the CE, with `twice` both are differentiable."""
    x = x.detach().requires_grad_()
    losses = ce(x)
    (gradient,) = torch.autograd.grad(losses.sum(), x, create_graph=keep and twice, retain_graph=keep)
    return losses, gradient


def unit(gradient: Tensor) -> Tensor:
    """Each image's gradient divided by its l2 norm, or 0; it is scaled first, so that no square underflows."""
    flat = gradient.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    return F.normalize(flat / torch.where(largest > 0, largest, 1.0), eps=0.5).view_as(gradient)
