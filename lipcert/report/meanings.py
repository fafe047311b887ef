"""What the numbers and words of a page mean, in a sentence each."""

from __future__ import annotations

from lipcert.contracts import Kind
from lipcert.reporting.table import Column
from lipcert.runs.numbers import WORDS

# What a reader is told of each kind of claim, where it is made.
KINDS = {
    Kind.PROOF: "These radii are proved: within its radius no image whatsoever has another label. Only such numbers "
    "are called certified here, and they are rounded down.",
    Kind.STATISTICAL: "These radii are statistical: they hold with a stated probability. That is no proof, and nothing "
    "of this run is certified.",
    Kind.NOMINAL: "This run has no certificate. Its radii are estimates from data, which guarantee nothing: attacks "
    "may succeed within them, and nothing of this run is certified.",
}
GROUPS = {  # the groups of numbers in a table, in their order
    "certified": "Proved",
    "statistical": "With a stated probability",
    "nominal": "Estimated, no guarantee",
    "attacked": "Under attack (empirical: upper bounds of the robust accuracy)",
    "": "Without any change of images, and costs",
}
GLOSSARY = {
    "radius": "How much an image may be changed, measured in l2 (the root of the sum of squared changes of pixels) or "
    "l∞ (the largest change of a pixel), where pixels go from 0 to 1.",
    "certified accuracy": "The fraction of test images that are classified rightly and proved to keep their label at "
    "every change up to the radius: a lower bound of the robust accuracy, whatever the attack.",
    "robust accuracy": "The fraction of test images that stay rightly classified at every change up to the radius. "
    "Nobody knows it exactly: proofs bound it from below, attacks from above.",
    "attacked accuracy": "The fraction of the attacked images that an attack did not get another label for: an upper "
    "bound of the robust accuracy on these images, and no guarantee. A stronger attack may lower it.",
    "shaded gap": "Between the certified and the attacked accuracy: the images of which it is neither proved that they "
    "withstand every change up to the radius, nor shown that they do not.",
    "gap of an image": "The largest logit minus the second largest, whatever the label: what an answer leads by. It "
    "says how sure an answer is, not how robust. (In runs of older versions: the label's logit and the largest other.)",
    "decile": "A tenth of the test images, sorted by their gap.",
    "statistical": "A claim that holds with a stated probability. It is no proof, and never called certified.",
    "nominal": "An estimate from data: it guarantees nothing, and is never called certified.",
    "Lipschitz bound": "A proved bound of how far the logits move while the image moves by 1.",
    "float32": "The arithmetic that the network is deployed in. Radii in float32 hold for the computed logits, "
    "whatever the order of summation.",
    "audit": "An attack on every proved radius with a whole suite, just inside and outside. It must break none, and "
    "says how large an error of the radii it would have noticed.",
}


def group_of(column: Column) -> str:
    """The group of `GROUPS` that a column of a comparison belongs to."""
    first = column.title.partition(" ")[0]
    if first in WORDS.values():
        return first
    attacked = first in ("robust", "broken") or column.title.startswith("median distance")
    return "attacked" if attacked else ""


def of_column(column: Column) -> str:
    """What the numbers of a column of a comparison mean."""
    title, group = column.title, group_of(column)
    if "median" in title and group in WORDS.values():
        return f"Half of the test images have at least this radius, misclassified ones counting 0. {_doubt(group)}"
    if group in WORDS.values():
        return (
            f"Percent of the test images that are classified rightly with a radius of {column.at} or more. "
            f"{_doubt(group)}"
        )
    if title.startswith("median distance"):
        return "Half of the attacked images get another label within this distance, found by the attack."
    if title.startswith("broken"):
        return (
            "Percent of the images with a certified radius that the attack got another label for, each at this "
            "multiple of its own radius. At 1 × and below it must be 0."
        )
    if title.startswith("robust"):
        return (
            f"Percent of the attacked images that the attack left rightly classified at radius {column.at}: an upper "
            "bound of the robust accuracy on these images. It is no guarantee."
        )
    return {
        "clean": "Percent of the test images that are classified rightly without any change.",
        "mean gap": "Mean lead of the label's logit over the largest other one, misclassified images counting 0.",
        "parameters": "How many numbers training adjusts.",
        "epochs": "How often training went through its images.",
        "training seconds": "Wall time of the training, on the machine where it ran.",
    }.get(title, "The largest value among the test images: it bounds the Lipschitz constant from below, no more.")


def _doubt(word: str) -> str:
    return {
        WORDS[Kind.PROOF]: "It is proved, and rounded down.",
        WORDS[Kind.STATISTICAL]: "It holds with a stated probability.",
        WORDS[Kind.NOMINAL]: "It is an estimate and guarantees nothing.",
    }[word]
