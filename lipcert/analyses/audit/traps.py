"""Small frozen networks of which a careless certificate proves too much: a layer used twice, and traps of floats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lipcert.analyses.audit.block import Claim
from lipcert.analyses.audit.forgeries import Forgery
from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import Norm
from lipcert.datasets.split import Split
from lipcert.frozen import Network
from lipcert.frozen.exact import exact_arithmetic
from lipcert.frozen.operation import Operation
from lipcert.frozen.ops.linear import Linear
from lipcert.frozen.ops.moves import Reshape

SIDE, COUNT = 4, 40  # pixels, and images of each network
FAR = 0.05  # the radius that is claimed at a tie


def traps(seed: int) -> Iterator[Forgery]:
    """A forged certificate of each network, on random images."""
    generator = torch.Generator().manual_seed(seed)
    pixels = SIDE * SIDE

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    images = torch.randint(0, 256, (COUNT, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    head, twofold = numbers(3, pixels), 2 * torch.linalg.qr(numbers(pixels, pixels)).Q
    twice = network([(twofold, None), (twofold, None), (head, None)])
    yield forged("a layer of norm 2 that is used twice, counted once", twice, images, larger=2.0)
    few = torch.randint(-8, 9, (pixels, pixels), generator=generator).double()
    tiny = network([(few * 2.0**-149, None), (head * 2.0**120, None)])
    yield forged("float32 without underflow: a tiny first layer, a huge last one", tiny, images, in_float32=True)
    apart = head / torch.linalg.matrix_norm(head, 2)
    biased = network([(torch.eye(pixels).double(), torch.full((pixels,), 1e6)), (apart, -1e6 * apart.sum(1))])
    yield forged("float32 without rounding: biases of 1e6 before and after", biased, images, in_float32=True)
    signs = torch.ones(2, pixels, dtype=torch.float64)
    signs[1, ::2], signs[1, 1::2] = 2.0, 0.0
    grey = torch.full((COUNT, 1, SIDE, SIDE), 128, dtype=torch.uint8)
    tied = network([(signs, None)])
    claims = [Claim(index, FAR) for index in range(COUNT)]
    yield Forgery("two equal logits, taken to be apart", tied, Norm.L2, labelled(tied, grey), claims)


def network(layers: Sequence[tuple[Tensor, Tensor | None]]) -> Network:
    """Linear layers (weight, bias) on flat images."""
    operations: list[Operation] = [Reshape(inputs=(0,), shape=(SIDE * SIDE,))]
    for weight, bias in layers:
        bias = None if bias is None else bias.double()
        operations.append(Linear(inputs=(len(operations),), shape=(len(weight),), weight=weight, bias=bias))
    return Network((1, SIDE, SIDE), tuple(operations), Norm.L2)


def labelled(network: Network, images: Tensor) -> Split:
    """Images with the labels that the network gives them."""
    return Split(images, network(images.double() / 255).argmax(1))


def forged(name: str, network: Network, images: Tensor, larger: float = 1.0, in_float32: bool = False) -> Forgery:
    """The true radii, made `larger`; or as if float32 had no errors but those of float64."""
    split = labelled(network, images)
    with exact_arithmetic():
        radii = Pairwise()(network).judge(images.double() / 255, split.labels).radius.tolist()
    claims = [
        Claim(index, radius * larger, radius if in_float32 else None)
        for index, radius in enumerate(radii)
        if radius > 0
    ]
    return Forgery(name, network, Norm.L2, split, claims)
