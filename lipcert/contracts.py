"""Read this first: what a classifier, a loss, a certificate and an attack promise each other.

Every part is handed to the others by configuration and known to them only by the promises below. This module imports
nothing heavy, so that reading results needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


class CertificateBroken(Exception):
    """An adversarial image lies within its certified radius: the certificate, or the network it was made for, is wrong.

    The message names the image, the attack, the distance, the radius and the file that holds the counter-example.
    """


class RanksFailed(Exception):
    """One of several ranks of a training ended with an error, which it has printed."""


class Kind(StrEnum):
    """What a radius claims. Tables, plots and columns never mix kinds; only a PROOF may be called *certified*."""

    PROOF = "proof"  # sound in real arithmetic, its own rounding error subtracted
    STATISTICAL = "statistical"  # holds with a stated probability
    NOMINAL = "nominal"  # an estimate from data: no guarantee


class Norm(StrEnum):
    """The norm of a perturbation, of an eps and of a radius; always in units of pixels in [0, 1]."""

    L2 = "l2"
    LINF = "linf"
    L1 = "l1"


@runtime_checkable
class Classifier(Protocol):
    """A network from images in [0, 1], shape (B, C, H, W), to logits (B, K).

    Normalisation by mean and std is its first layer and is counted in its bound, so that every eps and radius is in
    pixel units. `norm` is the norm it is certified in. Built as `Model(input_shape=(C, H, W), num_classes=K, ...)`.
    If its logits are `head(features(x))`, naming the two so gives it the `interval` certificate, and `last_layer` where
    `head` is linear. `unit`, where it has one, is how far a logit may move while the image moves by 1 (l_inf-distance
    nets: 1/std): losses that aim at a radius in pixels multiply by it. To be trained by interval propagation it offers
    `enclosure(x, eps)` = (z, low, high, rest): its logits are head(rest(z)), and low ≤ z ≤ high stands for all images
    within eps of x. A classifier without gradient training takes its training set by `memorise(images, labels)`.
    """

    norm: str

    def __call__(self, x: Tensor) -> Tensor: ...


class Loss(Protocol):
    """`loss(model, x, y)` returns named scalar terms; the term named "loss" is the one that is minimised.

    May own trainable parameters (they join the optimizer and the checkpoint, never the classifier). One that keeps
    something for a model, or can't train every one, has `prepare(model, input_shape)`: called once, before training and
    before a checkpoint is read; what it registers joins the checkpoint; its ValueError comes before all writing.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]: ...


class Verdict(NamedTuple):
    """What a certificate says of a batch: `prediction` (B,), `margin` (B,) and `radius` (B,), radius 0 if wrong.

    `margin` is signed: the label's logit minus the largest other one. A certificate that looks at each image by itself
    adds the radius that a Lipschitz bound of the whole network proves of it, `lipschitz_radius` ≤ `radius`.
    """

    prediction: Tensor
    margin: Tensor
    radius: Tensor
    lipschitz_radius: Tensor | None = None


@dataclass(frozen=True)
class BoundCertificate:
    """A certificate bound to one network: its constants are computed, it only has to look at images.

    `judge(x, labels)` is a Verdict in x's precision; `report` holds the Lipschitz bound and a row a layer. `pairs`
    (K, K), of a certificate that rests on such a bound, is how far y_t − y_i moves at most while the image moves by 1.
    `observe(x, labels)`, of a nominal one, is shown all images before it judges the first, and returns the columns that
    it saw of each: what a proof is never allowed to rest on.
    """

    kind: Kind
    norm: Norm
    judge: Callable[[Tensor, Tensor], Verdict]
    report: dict[str, Any] = field(default_factory=dict)
    pairs: Tensor | None = None
    observe: Callable[[Tensor, Tensor], Sequence[Tensor]] | None = None


class Certificate(Protocol):
    """`certificate(model, shape)` proves what it can of a float64 `model` in evaluation mode on images of `shape`.

    Raises ValueError, naming the module, where it can't: never a silent constant.
    """

    kind: Kind

    def __call__(self, model: nn.Module, shape: tuple[int, ...]) -> BoundCertificate: ...


class Attack(Protocol):
    """`attack(model, x, y, eps)` returns candidate images, shape of x; nobody trusts them (see `attacks.judge`).

    `label` names what ran, its norm (`_l2` or `_linf`), and the parameters that decide its strength; `norm` is the norm
    it minimises or is bound in. `eps` lists the radii to try, or is None for an attack that looks for the smallest
    distance: such an attack is called once, with eps None, otherwise once per radius with eps of shape (B,), a radius
    per image.
    """

    label: str
    norm: Norm
    eps: Sequence[float] | None
    batch_size: int
    images: int | None  # attack the first so many test images; None: all

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: Tensor | None) -> Tensor: ...


class CertificateRow(NamedTuple):
    """One line of certificates.csv: one test image."""

    index: int  # type: ignore[assignment]
    label: int
    prediction: int
    margin: float
    radius: float
    kind: str
    lipschitz_radius: float | None = None  # where `radius` is not itself from the network's Lipschitz bound


class AttackRow(NamedTuple):
    """One line of attacks.csv: one test image under one attack at one eps (None: smallest distance found).

    `distance` is in the attack's norm, 0 where the clean image is misclassified, inf where the attack failed.
    """

    index: int  # type: ignore[assignment]
    attack: str
    eps: float | None
    success: bool
    distance: float


@dataclass(frozen=True)
class Signal:
    """What is known of every activation at one place of a network, while `bounds.Walk` carries it through the layers.

    shape      of one image's activation. A branched signal has its branches first: (K, ...) or (K·C, H, W).
    lipschitz  how far it moves, per unit of movement of the image: one number, or one a branch, shape (K,).
    magnitude  its norm is at most this, for any image in [0, 1].
    error      what was computed in floating point differs from it by at most this in norm (a branch by itself).
    unit       unit roundoff of the evaluation: 2⁻⁵³ for float64, 2⁻²⁴ for float32. 0: an estimate of `lipschitz`.
    norm       of all these lengths, the image's included.

    A layer's rule `bound(signal, walk, name)` returns the signal after it. It is asked only for the norms that the
    layer's `norms` (of a network: `norm`) names; l2 where there is neither.
    """

    shape: tuple[int, ...]
    lipschitz: Any
    magnitude: float
    error: float
    unit: float
    norm: Norm = Norm.L2

    def rounding(self, operations: int) -> float:
        """γ_n = n·u/(1 − n·u): the relative error of n roundings in a row (Higham, *Accuracy and Stability*, §3.1)."""
        return operations * self.unit / (1 - operations * self.unit)

    def merged(self) -> Signal:
        """The branches as one: squares add (in l_inf: the largest counts)."""
        if self.lipschitz.dim() == 0:
            return self
        if self.norm is Norm.LINF:
            return replace(self, lipschitz=self.lipschitz.amax())
        wide, lipschitz = len(self.lipschitz) ** 0.5 * (1 + 1e-14), self.lipschitz.norm() * (1 + 1e-14)
        return replace(self, lipschitz=lipschitz, magnitude=wide * self.magnitude, error=wide * self.error)

    def after(
        self,
        shape: tuple[int, ...] | None = None,
        *,
        gain: Any = 1.0,
        offset: float = 0.0,
        roundings: int = 0,
        local: float = 0.0,
    ) -> Signal:
        """The signal behind a map that is `gain`-Lipschitz, sends 0 to something of norm `offset`, and rounds each
        entry `roundings` times relative to its own size (0: exact), plus a `local` absolute error in norm.
        """
        shape = self.shape if shape is None else shape
        if not self.unit:
            lipschitz = self.lipschitz if isinstance(gain, float) and gain == 1 else self.lipschitz * gain
            return Signal(shape, lipschitz, 0.0, 0.0, 0.0, self.norm)
        widest = float(gain) if isinstance(gain, float | int) else float(gain.detach().max())
        magnitude = widest * self.magnitude + offset
        error = widest * self.error + self.rounding(roundings) * (magnitude + widest * self.error) + local
        return replace(
            self,
            shape=shape,
            lipschitz=self.lipschitz * gain,
            magnitude=magnitude,
            error=error,
        )
