"""The l_inf attack of Carlini and Wagner (S&P 2017, section VI.C): it looks for the smallest adversarial perturbation.

The implementation is our own, on whole batches: Foolbox, CleverHans and torchattacks have none of it, and the authors'
own (github.com/carlini/nn_robust_attacks, li_attack.py) takes one image at a time, in TensorFlow 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from lipcert.attacks.batch import Answer, choose, lead_of, per_image
from lipcert.attacks.judge import distance
from lipcert.attacks.settings import check, label_of, refuse_radius, setting
from lipcert.configuration import radii
from lipcert.contracts import Norm

FLOOR = 1 / 256  # no tau below this is tried, as in the authors' code
LAST = 0.01  # the share of `stepsize` that is left at the end of an attempt
MEAN, SQUARE = 0.9, 0.999  # what Adam keeps of its two moments in a step
PARTS = 10  # an attempt is looked at after each of so many parts of its steps, and ends if
STALE = 0.9999  # its loss has not fallen below this share of what it was: both as in the authors' l2 attack


@dataclass(kw_only=True)
class CarliniWagnerLinf:
    """`attack(answer, x, y)` returns the closest misclassified image that it found, or x itself if it found none.

    For a threshold tau, steps of Adam minimise c·f(x + d) + Σ_i max(|d_i| − tau, 0) over the perturbation d, where
    f is how far the label leads the other classes, and 0 where it does not (the paper's f_6, untargeted). They begin
    with tau = 1 at x, and end as soon as the image is misclassified and no |d_i| is above tau. Then tau becomes
    `decrease` times the largest |d_i|, and the steps begin anew from the image found. Where `steps` steps do not get
    there, c is doubled; it begins at `initial_const`, and is never lowered for a smaller tau. Where it would reach
    `largest_const`, the authors' search ends. Ours goes on with `bisections` attempts at tau between the largest one
    that failed and the smallest distance found.

    Each image has its own tau and c, leaves the batch when its search has ended, and is attacked as if alone. Nothing
    is random. Other things that differ from the authors' code: pixels are clipped to [0, 1] after each step (the
    paper's projected descent), because the gradient in a black or white pixel vanishes in the variable arctanh; the
    length of the steps falls to a hundredth of `stepsize` until c is doubled, lest images swing around tau; with
    `abort_early`, c is doubled as soon as the loss stops falling; every image on the way may be the closest; and
    logits are rescaled, image by image, to a spread of 10 on the clean image, to which c and `confidence` refer.

    steps          of Adam, at each tau and c
    stepsize       of Adam, in pixel units of [0, 1]
    confidence     the margin by which a candidate must be wrong; a little above 0 keeps float32 candidates wrong in
                   float64
    radii          in pixel units: where the record reports the robust accuracy that follows from the distances; None:
                   at the run's, if these are in l_inf

    Raises ValueError for a setting that makes no sense, and for a radius `eps`.
    """

    steps: int = 1000
    stepsize: float = setting(5e-3, "-step{:g}")
    initial_const: float = setting(1e-5, "-const{:g}")
    largest_const: float = setting(20.0, "-largest{:g}")
    decrease: float = setting(0.9, "-decrease{:g}")
    bisections: int = setting(4, "-bisections{}")
    confidence: float = setting(1e-4, "-confidence{:g}")
    abort_early: bool = setting(True, "-no_abort")
    batch_size: int = 250
    images: int | None = None
    radii: Sequence[float] | None = None
    norm: Norm = field(default=Norm.LINF, init=False)
    eps: Sequence[float] | None = field(default=None, init=False)
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self, counts=("steps",), positive=("stepsize", "initial_const", "largest_const"))
        if not self.initial_const < self.largest_const:
            raise ValueError(
                f"`attack.largest_const`: got {self.largest_const}, must be above initial_const, {self.initial_const}"
            )
        if not 0 < self.decrease < 1:
            raise ValueError(f"`attack.decrease`: got {self.decrease}, must be above 0 and below 1")
        if not isinstance(self.bisections, int) or self.bisections < 0:
            raise ValueError(f"`attack.bisections`: got {self.bisections!r}, must be a whole number of at least 0")
        if not 0 <= self.confidence < float("inf"):
            raise ValueError(f"`attack.confidence`: got {self.confidence}, must be at least 0 and finite")
        if self.radii is not None:
            self.radii = radii(self.radii, "attack.radii")
        self.label = label_of(self, f"carlini_wagner_linf-{self.steps}")

    @torch.no_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        """The closest images found, like `x` (B, C, H, W) in [0, 1], with labels `y` (B,); `answer` gives logits."""
        refuse_radius(self.label, eps)
        x = x.detach()
        clean, best = answer(x), x.clone()
        rows = (lead_of(clean, clean, y) < self.confidence).nonzero()[:, 0]
        search = _Search.begin(rows, x[rows], y[rows], clean[rows], self)
        while len(search.rows):
            ended = self._step(answer, search)
            if ended.any():
                best[search.rows[ended]] = search.best[ended]
                search = search.only(~ended)
        return best

    def _step(self, answer: Answer, at: _Search) -> Tensor:
        """Sees where the images are, decides what becomes of tau and c, and moves on; which searches ended, (B,)."""
        with torch.enable_grad():
            point = at.point.requires_grad_()
            lead = lead_of(answer(point), at.clean, at.y)
            (gradient,) = torch.autograd.grad(lead.sum(), point)
        at.point, lead, away = point.detach(), lead.detach().double(), point.detach() - at.x
        reached, wrong = distance(Norm.LINF, at.point, at.x), lead >= self.confidence
        closer = wrong & (reached < at.smallest)
        at.smallest = torch.where(closer, reached, at.smallest)
        at.best = choose(closer, at.point, at.best)
        solved = wrong & (reached <= at.tau)
        excess = (away.abs() - per_image(at.tau, away)).clamp_min(0).flatten(1).sum(1)
        failed = self._fails(at, at.const * (self.confidence - lead).clamp_min(0) + excess, ~solved)
        ended = self._next_tau(at, solved, failed)
        gradient = -per_image(at.const * ~wrong, away) * gradient.nan_to_num(0.0)
        gradient += away.sign() * (away.abs() > per_image(at.tau, away))
        self._move(at, gradient.to(away.dtype), again=failed)
        return ended

    def _fails(self, at: _Search, loss: Tensor, unsolved: Tensor) -> Tensor:
        """Doubles c of the `unsolved` (B,) whose steps are used up or whose loss (B,) is stale; whose c is too big."""
        at.tried += 1
        at.lowest = at.lowest.minimum(loss)
        looked_at = at.tried % max(self.steps // PARTS, 1) == 0
        stale = looked_at & ~(at.lowest < STALE * at.before) & self.abort_early
        at.before = torch.where(looked_at, at.lowest, at.before)
        over = (stale | (at.tried >= self.steps)) & unsolved
        at.const = torch.where(over, 2 * at.const, at.const)
        at.begin_attempt(over)
        return at.const >= self.largest_const

    def _next_tau(self, at: _Search, solved: Tensor, failed: Tensor) -> Tensor:
        """Chooses the next tau of images whose tau is solved or has failed, and where to begin; which have none."""
        at.failed = torch.where(failed, at.tau, at.failed)
        between = at.failed > 0
        at.left -= (between & (solved | failed)).long()
        tau = torch.where(between, (at.failed + at.smallest) / 2, self.decrease * at.smallest)
        at.worked = torch.where(solved, at.const, at.worked)
        at.const = torch.where(failed, at.worked, at.const)
        at.tau = torch.where(solved | failed, tau, at.tau)
        at.point = choose(failed, at.best, at.point)
        at.begin_attempt(solved | failed)
        at.age = at.age.masked_fill(solved | failed, 0)
        return (solved | failed) & ((at.left < 0) | (at.tau < FLOOR) | at.smallest.isinf())

    def _move(self, at: _Search, gradient: Tensor, again: Tensor) -> None:
        """A step of Adam, clipped to the box, of all images but those that begin `again` (B,) elsewhere."""
        fresh = at.age == 0
        at.age += (~again).long()
        at.first = gradient.lerp(at.first.masked_fill(per_image(fresh, gradient), 0), MEAN)
        at.second = (gradient**2).lerp(at.second.masked_fill(per_image(fresh, gradient), 0), SQUARE)
        mean = at.first / per_image(1 - MEAN ** at.age.clamp_min(1), gradient)
        size = (at.second / per_image(1 - SQUARE ** at.age.clamp_min(1), gradient)).sqrt()
        move = (mean / (size + 1e-12)).masked_fill(per_image(again, gradient), 0)
        rate = self.stepsize * LAST ** (at.tried / self.steps)
        at.point = (at.point - per_image(rate, move) * move).clamp(0, 1).to(at.x.dtype)


@dataclass
class _Search:
    """The searches that go on, one for each image of a batch; (B,) unless said.

    rows      their places in the whole batch
    x, y, clean, point, best  (B, ...) the clean images, their labels and logits, where they are, the closest found
    smallest  the l_inf distance of `best`, inf where there is none
    tau, const, tried  of the attempt that goes on, and its steps so far
    lowest, before     the lowest loss of it, so far and when it was last looked at
    worked, failed     the c of the last tau that was solved, and the largest tau that failed, 0 where none has
    left      how many further attempts there may be once a tau has failed
    first, second, age  Adam's moments (B, ...), and their steps
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    clean: Tensor
    point: Tensor
    best: Tensor
    smallest: Tensor
    tau: Tensor
    const: Tensor
    tried: Tensor
    lowest: Tensor
    before: Tensor
    worked: Tensor
    failed: Tensor
    left: Tensor
    first: Tensor
    second: Tensor
    age: Tensor

    @classmethod
    def begin(cls, rows: Tensor, x: Tensor, y: Tensor, clean: Tensor, attack: CarliniWagnerLinf) -> _Search:
        """Searches from the clean images `x`, before the first step."""
        zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        count, inf, const = zero.long(), zero + torch.inf, zero + attack.initial_const
        return cls(
            *(rows, x, y, clean, x.clone(), x.clone(), inf, zero + 1, const, count.clone(), inf, inf, const, zero),
            *(count + attack.bisections, torch.zeros_like(x), torch.zeros_like(x), count.clone()),
        )

    def begin_attempt(self, those: Tensor) -> None:
        """Counts the steps of those (B,) from 0 again, and forgets how low their loss was."""
        self.tried = self.tried.masked_fill(those, 0)
        self.lowest = self.lowest.masked_fill(those, torch.inf)
        self.before = self.before.masked_fill(those, torch.inf)

    def only(self, those: Tensor) -> _Search:
        """The searches of those (B,) alone."""
        return _Search(*(getattr(self, f.name)[those] for f in fields(self)))
