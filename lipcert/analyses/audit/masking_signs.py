"""The signs of gradient masking, read off the numbers of `masking.diagnose`, each with its threshold.

They are those that Athalye, Carlini & Wagner (ICML 2018) list, and what float32 adds to them.
"""

from __future__ import annotations

from collections.abc import Mapping

POINTS = 0.1  # of the images: what an attack must leave less than another to be a sign. Healthy networks: up to 0.06
WEAK = 0.05  # of the images: by how much PGD-40 may be above what all attacks leave, before it is called weak
LEAST = 10  # images that such a difference must have: two equally strong attacks, or random starts, differ by a few
FLAT = 0.05  # of the images: so many gradients that are 0 or not finite, or labels that float32 changes, are a sign

TWINS = {
    "float64": "The same attack in float64",
    "rescaled": "The same attack on the margin of rescaled logits, still in float32,",
    "rescaled_float64": "The same attack on the margin of rescaled logits in float64",
}
WITHOUT_GRADIENTS = {
    "square": "Square, which sees answers and no gradients,",
    "transfer": "An attack on another network, which was trained on the answers of this one,",
}


def signs(numbers: Mapping[str, float]) -> list[str]:
    """A sentence for each sign of masking; none where nothing is masked.

    What differs from PGD-40 in one thing is compared with it; what differs in more, with PGD-200, because forty short
    steps may just be too few.
    """
    printed, longest, least = (numbers[name] for name in ("pgd-40", "pgd-200", "apgd"))
    enough = points(numbers)
    found = []
    if numbers["flat"] >= FLAT:
        found.append(
            f"The gradient of the cross-entropy in float32 is 0 or not finite at {percent(numbers['flat'])} of the "
            "images: FGSM and PGD cannot move there."
        )
    if numbers["float32_differs"] >= FLAT:
        found.append(
            f"float32 gives {percent(numbers['float32_differs'])} of the images another label than float64 does: its "
            f"rounding is as large as the gaps, whose median is {numbers['gap']:.3g}."
        )
    twins = [name for name in TWINS if numbers[name] <= printed - enough]
    blind = [name for name in WITHOUT_GRADIENTS if numbers[name] <= longest - enough]
    found += [f"{(TWINS | WITHOUT_GRADIENTS)[name]} leaves {percent(numbers[name])}." for name in twins + blind]
    if numbers["fgsm"] <= longest - enough:
        found.append(f"FGSM, a single step, leaves {percent(numbers['fgsm'])}: fewer than 200 steps do.")
    if numbers["pgd-10"] - longest < enough <= longest - least:
        found.append(
            f"More steps do not help: 10, 40 and 200 steps leave {percent(numbers['pgd-10'])}, {percent(printed)} and "
            f"{percent(longest)}."
        )
    if twins and numbers["saturated"] >= FLAT:
        found.append(
            f"The cause: in float32 softmax gives the label the probability 1 at {percent(numbers['saturated'])} of "
            f"the images, because logits differ by {numbers['gap']:.3g} in the median; so their loss is 0."
        )
    return found


def sentences(numbers: Mapping[str, float]) -> list[str]:
    """What the numbers mean: the signs after a summary, or that there are none."""
    printed, least, found = numbers["pgd-40"], numbers["apgd"], signs(numbers)
    compared = f"PGD-40 in float32 leaves {percent(printed)} of the images, all attacks together {percent(least)}"
    if found:
        return [f"Gradients are masked: {compared}.", *found]
    if least <= printed - points(numbers, WEAK):
        return [f"No sign of gradient masking, but PGD-40 is too weak for this network: {compared}."]
    return [f"No sign of gradient masking: {compared}."]


def points(numbers: Mapping[str, float], fraction: float = POINTS) -> float:
    """The fraction of images, or what makes it `LEAST` images."""
    return max(fraction, LEAST / numbers["images"])


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"
