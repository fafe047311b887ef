"""The l2 attack of Carlini and Wagner (S&P 2017), by Foolbox: it looks for the smallest adversarial perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.attacks.adapter import as_foolbox, load_foolbox
from lipcert.attacks.batch import Answer, rescaled
from lipcert.attacks.settings import check, label_of, refuse_radius, setting
from lipcert.contracts import Norm


@dataclass(kw_only=True)
class CarliniWagnerL2:
    """`attack(answer, x, y)` returns the closest misclassified image that it found, or x itself if it found none.

    The attack has no random start. Its first search is untargeted: it follows the largest logit, which need not lead to
    the nearest boundary. The further searches each have a target: of the wrong classes as they rank on the clean image,
    the second, the third and so on, and finally the first. With more `restarts` than classes, all this is repeated,
    each time from a larger constant between `initial_const` and ten times that. The closest image is kept. The search
    is deterministic, but `abort_early` ends it when the whole batch stops improving, so that a result depends a little
    on its batch.

    `confidence` and `initial_const` refer to logits that are rescaled, image by image, to a spread of 10 on the clean
    image: on raw logits the attack fails where they are tiny. `confidence` is the margin by which a candidate must be
    wrong; a little above 0 keeps float32 candidates wrong in float64.
    """

    steps: int = 1000
    binary_search_steps: int = 9
    stepsize: float = setting(0.01, "-step{:g}")
    initial_const: float = setting(1e-3, "-const{:g}")
    confidence: float = setting(1e-4, "-confidence{:g}")
    abort_early: bool = setting(True, "-no_abort")
    restarts: int = setting(1, "-r{}")
    batch_size: int = 250
    images: int | None = None
    norm: Norm = field(default=Norm.L2, init=False)
    eps: Sequence[float] | None = field(default=None, init=False)
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self, counts=("steps", "binary_search_steps", "restarts"), positive=("stepsize", "initial_const"))
        if not self.confidence >= 0:
            raise ValueError(f"`attack.confidence`: got {self.confidence}, must be at least 0")
        self.label = label_of(self, f"carlini_wagner_l2-{self.steps}x{self.binary_search_steps}")

    @torch.enable_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        refuse_radius("carlini_wagner_l2", eps)
        x = x.detach()
        foolbox = load_foolbox()
        best, smallest = x.clone(), x.new_full((len(x),), torch.inf)
        clean = answer(x).detach()
        scaled = as_foolbox(lambda images: rescaled(answer(images), 10.0, like=clean), x)
        ranked = clean.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)  # the label comes last
        classes = ranked.shape[1]
        for restart in range(self.restarts):
            turn, aim = divmod(restart, classes)
            if aim == 0:
                goal = foolbox.criteria.Misclassification(y)
            else:
                goal = foolbox.criteria.TargetedMisclassification(ranked[:, aim % (classes - 1)])
            attack = foolbox.attacks.L2CarliniWagnerAttack(
                steps=self.steps,
                binary_search_steps=self.binary_search_steps,
                stepsize=self.stepsize,
                initial_const=self.initial_const * 10 ** (turn * classes / self.restarts),
                confidence=self.confidence,
                abort_early=self.abort_early,
            )
            found = attack.run(scaled, x, goal)
            failed = (found == 0).flatten(1).all(1)  # Foolbox then returns a black image
            distance = (found - x).flatten(1).norm(dim=1).masked_fill(failed, torch.inf)
            closer = distance < smallest
            smallest = torch.where(closer, distance, smallest)
            best[closer] = found[closer]
        return best
