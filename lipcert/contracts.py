"""Read this first: what a classifier, a loss, a certificate and an attack promise each other.

Every part is handed to the others by configuration and known to them only by the promises below. This module imports
nothing heavy, so that reading results needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


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
    It is only trained: what is certified, attacked and handed out is the `frozen.Network` that is captured of it.
    `unit`, where it has one, is how far a logit may move while the image moves by 1 (l_inf-distance nets: 1/std):
    losses that aim at a radius in pixels multiply by it. To be trained by interval propagation it offers `enclosed`, a
    part that ends with the logits, and `enclosure(x, eps)` = (z, low, high): its logits are enclosed(z), and
    low ≤ z ≤ high stands for all images within eps of x. A layer with a `claim()` says what its own scheme promises of
    its operator norms. A classifier without gradient training takes its training set by `memorise(images, labels)`.

    A layer may offer besides: `project()`, called after every step of the optimizer, which restores a constraint;
    `retract()`, called after a step if the optimizer's attribute `retract` is true; `weight_penalty()`, a scalar that
    the L2NNN loss adds. A weight may carry `p`, the norm in which LpAdamW decays it. A schedule sets any attribute that
    a ramp names, on the loss (`loss.NAME`) or on every layer that has it (`model.NAME`). A classifier with a linear
    `head` can be trained with a decay of its head alone.
    """

    norm: str

    def __call__(self, x: Tensor) -> Tensor: ...


class Loss(Protocol):
    """`loss(model, x, y)` returns named scalar terms; the term named "loss" is the one that is minimised. The log has
    the mean of each over an epoch; "accuracy" is the fraction of the images that the logits which the loss is computed
    from classify rightly: of perturbed images, where a loss perturbs them.

    May own trainable parameters (they join the optimizer and the checkpoint, never the classifier). One that keeps
    something for a model, or can't train every one, has `prepare(model, input_shape)`: called once, before training and
    before a checkpoint is read; what it registers joins the checkpoint; its ValueError comes before all writing.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]: ...


class Verdict(NamedTuple):
    """What a certificate says of a batch: `prediction` (B,), `margin` (B,) and `radius` (B,), radius 0 if wrong.

    `margin` is signed: the label's logit minus the largest other one. A certificate that looks at each image by itself
    adds the radius that a Lipschitz bound of the whole network proves of it, `lipschitz_radius` ≤ `radius`.

    `radius_float32` ≤ `radius`, which a proof adds, is of the network as it is deployed in float32: every image of
    float32 in [0, 1] within it is given the label, whatever the order of summation.

    `gap` (B,) is the largest logit minus the second largest, whatever the label; at least 0.
    """

    prediction: Tensor
    margin: Tensor
    radius: Tensor
    lipschitz_radius: Tensor | None = None
    radius_float32: Tensor | None = None
    gap: Tensor | None = None


@dataclass(frozen=True)
class BoundCertificate:
    """A certificate bound to one frozen network: its constants are computed, it only has to look at images.

    `judge(x, labels)` is a Verdict in x's precision; `report` holds the Lipschitz bound and a row a layer. `pairs`
    (K, K), of a certificate that rests on such a bound, is how far y_t − y_i moves at most while the image moves by 1,
    and `errors` (K,) by how much a computed logit differs at most from the exact one; `deployed` is a
    `frozen.deployed.Deployed`, the network in float32 with its own.
    `observe(x, labels)`, of a nominal one, is shown all images before it judges the first, and returns the columns that
    it saw of each: what a proof is never allowed to rest on.
    """

    kind: Kind
    norm: Norm
    judge: Callable[[Tensor, Tensor], Verdict]
    report: dict[str, Any] = field(default_factory=dict)
    pairs: Tensor | None = None
    errors: Tensor | None = None
    deployed: Any = None
    observe: Callable[[Tensor, Tensor], Sequence[Tensor]] | None = None


class Certificate(Protocol):
    """`certificate(network)` proves what it can of a `frozen.Network`, and of nothing else.

    Raises ValueError, naming the layer, where it can't: never a silent constant.
    """

    kind: Kind

    def __call__(self, network: Any) -> BoundCertificate: ...


class Attack(Protocol):
    """`attack(answer, x, y, eps)` returns candidate images, shape of x; nobody trusts them (see `attacks.judge`).

    `answer` is any function from images to logits: a frozen network, or in training what the model answers.

    `label` names what ran, its norm (`_l2`, `_linf` or `_l1`), and the parameters that decide its strength; `norm` is
    the norm it minimises or is bound in. `eps` lists the radii to try, or is None for an attack that looks for the
    smallest distance: such an attack is called once, with eps None, otherwise once per radius with eps of shape (B,), a
    radius per image.
    """

    label: str
    norm: Norm
    eps: Sequence[float] | None
    batch_size: int
    images: int | None  # attack the first so many test images; None: all

    def __call__(self, answer: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: Tensor | None) -> Tensor: ...


class Logger(Protocol):
    """What shows a run besides its own metrics.csv and summary.json.

    `begin(directory, config)` says which run it is of, and has no effect yet: a logger that is told nothing writes
    nothing. `epoch(numbers)` is told of each epoch while the run trains, by one rank; `numbers["epoch"]` counts from 1,
    and a training that was resumed repeats the epochs that it had not saved. `record(summary, curves)` gets what
    summary.json holds and a picture as PNG. `end(whole)` comes last; `whole`: the run has come to its end. Only
    `lipcert train` uses one that contacts a server. One that can't be used raises ValueError where it is built, before
    anything of the run is written.
    """

    def begin(self, directory: Path, config: Mapping[str, Any]) -> None: ...

    def epoch(self, numbers: Mapping[str, float]) -> None: ...

    def record(self, summary: Mapping[str, Any], curves: bytes) -> None: ...

    def end(self, whole: bool) -> None: ...


class CertificateRow(NamedTuple):
    """One line of certificates.csv: what one certificate says of one image.

    split             "test", "val" or "train"
    index             of the image in its split
    norm              of the radius: l2, linf or l1
    certificate       the label of the certificate, which names its parameters where they are not the usual ones
    kind              what the radius claims: proof, statistical or nominal
    label, prediction classes
    margin            the label's logit minus the largest other one
    radius            in pixels of [0, 1], 0 where the prediction is wrong
    lipschitz_radius  what a Lipschitz bound of the whole network proves of the image, where `radius` is from elsewhere
    radius_float32    of the network as it is deployed in float32, at most `radius`; None where that is not a proof
    gap               the largest logit minus the second largest, whatever the label; None in rows of older versions
    """

    split: str
    index: int  # type: ignore[assignment]
    norm: str
    certificate: str
    kind: str
    label: int
    prediction: int
    margin: float
    radius: float
    lipschitz_radius: float | None = None
    radius_float32: float | None = None
    gap: float | None = None


class AttackRow(NamedTuple):
    """One line of attacks.csv: one image under one attack at one eps (None: the smallest distance that it found).

    `norm` is the attack's and that of `distance`, which is 0 where the clean image is misclassified, and inf where the
    attack failed. `factor` is None, unless eps is that multiple of the image's own certified radius. `prediction` is
    the class that the network gives to the image that the attack ended with; None in rows of older versions.
    """

    split: str
    index: int  # type: ignore[assignment]
    norm: str
    attack: str
    eps: float | None
    success: bool
    distance: float
    factor: float | None = None
    prediction: int | None = None


class StabilityRow(NamedTuple):
    """One line of stability.csv: how steep the network is at one test image. These are no bounds.

    loss           the cross-entropy
    loss_gradient  the l2 norm of its gradient, per pixel of [0, 1], as the next two are
    jacobian       the spectral norm of the logits' Jacobian
    jacobian_rows  the l2 norm of its longest row: of the gradient of the steepest logit
    """

    split: str
    index: int  # type: ignore[assignment]
    loss: float
    loss_gradient: float
    jacobian: float
    jacobian_rows: float
