"""MODEL_CARD.md of an exported network, written from its manifest alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NORMS = {"l2": "l2 (Euclidean distance of all pixels together)", "linf": "l∞ (largest change of one pixel)", "l1": "l1"}
FILES = {
    "network.json": "the network: a list of operations, as plain text",
    "network.safetensors": "the constants of these operations",
    "network.onnx": "the same network for ONNX runtimes, in float32",
    "network.py": "the same network as plain PyTorch source",
    "certificates.csv": "a row for each test image: its label, the prediction, and the radii that are proved",
    "images.npz": "test images as bytes, with their labels, so that the radii can be judged again",
    "manifest.json": "all of the numbers on this page, the bound layer by layer, and the hash of every file",
}
FLOAT32 = (
    "`radius_float32` is the same for the network as it is deployed in float32: constants rounded to float32, images "
    "of float32 in [0, 1], sums in any order, with or without fused multiply-add, subnormal numbers kept or flushed."
)
EXCLUDED = (
    "TF32, bfloat16 and float16; Winograd and FFT convolutions, which some libraries choose by themselves; layers "
    "that a runtime fuses; fast-math versions of exp and tanh. Switch these off where the network runs, or regard the "
    "radii as not proved there."
)


def render(content: Mapping[str, Any]) -> str:
    """The page, from the content of a manifest; its hashes of files are not looked at."""
    claim, data, form = content["claim"], content["data"], content["format"]
    lines = [
        f"# {text(data['name'])}: an image classifier with certified radii",
        "",
        f"Written by lipcert {text(content['lipcert'])}. `lipcert verify FOLDER` checks every number under *Claim* and "
        "*Numbers* but those of attacks and of the audit.",
        *section("Claim", of_claim(content)),
        *section("What is not claimed", of_limits(content)),
        *section("Numbers", of_numbers(content)),
        *section("How the bound comes about", of_bound(content)),
        *section("Input", of_input(content)),
        *section("Data and training", of_training(content)),
        *section("Attacks and audit", of_attacks(content["numbers"], claim["norm"])),
        *section("How to check it", of_checks(data["exported"], data["images"])),
        *section("Files", of_files(form, data["exported"])),
        *section("Licence", ["*Not stated. Whoever publishes this network states its licence and that of the data.*"]),
    ]
    return "\n".join(lines) + "\n"


def section(title: str, body: Iterable[str]) -> Iterator[str]:
    yield from ("", f"## {title}", "", *body)


def of_claim(content: Mapping[str, Any]) -> Iterator[str]:
    claim = content["claim"]
    yield (
        f"For each test image, `certificates.csv` has a `radius` in {NORMS[claim['norm']]}, in units of pixels in "
        "[0, 1]: **in real arithmetic, every image within this distance is given the same label as the test image.** "
        f"It is a proof, by the certificate {code(claim['certificate'])}, and no estimate. What rounding may have done "
        "to the radius while it was computed is subtracted. An image that is misclassified has the radius 0."
    )
    yield ""
    refused = content["rounding"]["refused"]
    if claim["float32"] and not refused:
        yield FLOAT32
    elif refused:
        yield f"Nothing is claimed of float32: {text(refused)}."
    else:
        yield "Nothing is claimed of the network in float32: its radii were not computed."


def of_limits(content: Mapping[str, Any]) -> Iterator[str]:
    yield f"- **Other arithmetic**: {EXCLUDED}"
    yield (
        "- **Other images**: the radii are of the test images in `certificates.csv`. Of a new image nothing is known "
        "until it is certified itself (`lipcert.load(FOLDER).certify(images)`)."
    )
    yield (
        "- **Other changes**: a radius is of one norm. Rotations, translations, blur, changes of brightness and other "
        "norms are not covered, but as far as they stay within the radius."
    )
    yield "- **That the label is right** for the image, or that images within the radius look alike to a person."


def of_numbers(content: Mapping[str, Any]) -> Iterator[str]:
    found, images = content["numbers"], content["data"]["images"]
    single = found["certified_accuracy_float32"]
    yield f"Of {images:,} test images, rounded for reading (`manifest.json` and `certificates.csv` have all digits):"
    yield ""
    yield "| | real arithmetic | float32 |"
    yield "|---|---:|---:|"
    yield f"| classified rightly | {percent(found['clean_accuracy'])} | |"
    for eps, value in found["certified_accuracy"].items():
        beside = percent(single[eps]) if single else "not claimed"
        yield f"| certified within {float(eps):g} ({content['claim']['norm']}) | {percent(value)} | {beside} |"
    mean, single = found["mean_radius"], found["mean_radius_float32"]
    claimed = found["certified_accuracy_float32"] is not None
    yield f"| mean radius | {_radius(mean)} | {_radius(single) if claimed else 'not claimed'} |"


def _radius(mean: float | None) -> str:
    return "unbounded" if mean is None else f"{mean:.5g}"


def of_bound(content: Mapping[str, Any]) -> Iterator[str]:
    bound, rounding = content["bound"], content["rounding"]
    pairs = max(max(row) for row in bound["pairs"])
    yield (
        f"While the image moves by 1, the vector of logits moves by at most {bound['vector']:.6g}, a single logit by "
        f"at most {max(bound['logits']):.6g}, and a difference of two logits, which radii rest on, by at most "
        f"{pairs:.6g}. The network has {content['network']['operations']} operations with "
        f"{content['network']['constants']:,} constants."
    )
    errors = [
        f"{largest:.2g} in {name}"
        for name in ("float64", "float32")
        if rounding[name] and None not in rounding[name] and (largest := max(rounding[name])) is not None
    ]
    if errors:
        yield ""
        costs = f" The operation that costs float32 most is {code(rounding['layer'])}." if rounding["layer"] else ""
        yield f"A logit is off by at most {' and '.join(errors)}, for all images.{costs}"
    if bound["layers"]:
        yield ""
        yield "| layer | kind | shape | norm | bound up to it |"
        yield "|---|---|---|---:|---:|"
        for row in bound["layers"]:
            shape = " × ".join(map(str, row["shape"]))
            numbers = f"{row['norm']:.6g} | {row['lipschitz']:.6g}"
            yield f"| {code(row['name'])} | {text(row['kind'])} | {shape} | {numbers} |"


def of_input(content: Mapping[str, Any]) -> Iterator[str]:
    found = content["preprocessing"]
    shape = " × ".join(map(str, found["shape"]))
    yield (
        f"Images of {shape} (channels, height, width) in [0, 1]: a byte is divided by 255, and nothing else is done to "
        "an image before the network. What normalises it is part of the network, and is counted in the bound."
    )
    for each in found["first_operations"]:
        constants = ", ".join(f"{key} {text(value)}" for key, value in each.items() if key != "kind")
        if each["kind"] == "affine":
            yield ""
            yield f"- first operation: `{each['kind']}`, {constants or 'without constants'}"


def of_training(content: Mapping[str, Any]) -> Iterator[str]:
    data, found = content["data"], content["training"]
    yield f"- data set: {text(data['name'])} ({code(data['dataset'].get('_target_'))})"
    for split, sha256 in data["sha256"].items():
        yield f"- SHA-256 of its {text(split)} images and labels: {code(sha256)}"
    named = {"model": "model", "epochs": "epochs", "parameters": "trained parameters", "seed": "seed"}
    for key, name in named.items():
        yield f"- {name}: {'not known' if found.get(key) is None else text(found[key])}"
    if found.get("seconds") is not None:
        yield f"- seconds of training: {found['seconds']:.0f} on {text(found.get('device'))}"
    if versions := found.get("versions"):
        yield f"- versions: {', '.join(f'{text(name)} {text(version)}' for name, version in versions.items())}"
    yield f"- commit of the source: {text(found.get('git_commit') or 'not known')}"


def of_attacks(numbers: Mapping[str, Any], norm: str) -> Iterator[str]:
    if not numbers["attacks"]:
        yield "It was not attacked."
    for label, found in numbers["attacks"].items():
        robust = ", ".join(f"{percent(value)} at {float(eps):g}" for eps, value in found["robust_accuracy"].items())
        median = found["median_distance"]
        distance = "" if median is None else f"median distance {median:.5g}"
        said = "; ".join(filter(None, [robust and f"left rightly classified: {robust}", distance]))
        yield f"- {code(label)}, {found['images']:,} images: {said or 'no number'}"
    audit = numbers["audit"]
    yield ""
    if audit is None:
        yield "No audit is recorded: `lipcert audit` tries to break every radius."
        return
    count, broken = audit.get("images"), audit.get("broken")
    yield (
        f"An audit (`lipcert audit`) tried to break the radii of {text(count)} images in {text(audit.get('pairs'))} "
        f"attempts: **{text(broken)} broken**. A radius that were too large by this factor would have been noticed, on "
        f"the image where it is smallest: {text(audit.get('smallest_noticed'))}, in float32 "
        f"{text(audit.get('smallest_noticed_float32'))}."
    )


def of_checks(exported: int, images: int) -> Iterator[str]:
    yield "    pip install lipcert"
    yield "    lipcert verify FOLDER                  # with the data set: data_dir=PATH"
    yield ""
    yield (
        "It computes the bound anew from the constants, by other code than that which made it, and judges "
        f"{f'the {exported:,} images in `images.npz`' if exported else 'no image, as none is in the folder'} again; "
        f"with `data_dir` all {images:,}. It executes nothing that is in this folder. The exit status is 3 where a "
        "bound or a radius is not confirmed, and 2 where a file is damaged."
    )


def of_files(form: str, exported: int) -> Iterator[str]:
    absent = {"network.onnx": form != "onnx", "network.py": form != "torch", "images.npz": not exported}
    for name, what in FILES.items():
        if not absent.get(name):
            yield f"- `{name}`: {what}"


def code(value: Any) -> str:
    """A value as one line of code."""
    return f"`{''.join(c if c.isprintable() and c not in '`|' else ' ' for c in str(value))[:200].strip()}`"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def text(value: Any) -> str:
    """A value as one line, in which nothing of markdown or HTML has a meaning of its own."""
    line = "".join(c if c.isprintable() else " " for c in str(value))[:200]
    return re.sub(r"[`|<>\[\]*_\\]", lambda found: "\\" + found[0], line)
