"""summary.json: what a run claims, put together from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lipcert.contracts import CertificateRow, Kind
from lipcert.runs import numbers
from lipcert.runs.results import Results


def _of_each_kind(key: str, says: str) -> dict[str, str]:
    doubts = {"statistical": "holds with a stated probability", "nominal": "an estimate, no guarantee"}
    return {f"{word}_{key}": f"{says}: {doubt}" for word, doubt in doubts.items()}


_ACCURACY = "fraction of test images classified rightly with a radius of eps or more"
_BY_CONSTRUCTION = "the same with the bound that construction gives, before the layers' norms are measured"
_BY_LIPSCHITZ = "the same by the network's Lipschitz bound alone, where the certificate looks at each image by itself"
_MEAN, _MEDIAN = "mean radius, misclassified images counting 0", "median radius, misclassified images counting 0"
_FLOAT32 = " of the network as it is deployed in float32, in any order of summation"

# Every key of summary.json in one phrase. Fractions are of 1, eps, radii and distances in pixels of [0, 1].
KEYS: dict[str, str] = {
    "finished": "whether every stage that was asked for is in this record",
    "model": "what built the network",
    "dataset": "what built the data set",
    "certificate": "what computed the radii; of several the one whose bound is reported below",
    "certificates": "{certificate: kind of its claim}, all that the run has; of one kind the largest radius counts",
    "kind": "what a radius claims: proof, statistical or nominal",
    "norm": "the norm of the radii: l2 or linf",
    "test_images": "number of test images in certificates.csv",
    "clean_accuracy": "fraction of test images classified rightly",
    "certified_accuracy": f"{{eps: {_ACCURACY}}}, proved",
    "certified_accuracy_by_construction": f"{{eps: {_BY_CONSTRUCTION}}}",
    "certified_accuracy_by_lipschitz": f"{{eps: {_BY_LIPSCHITZ}}}",
    "mean_radius": f"{_MEAN}, proved",
    "median_radius": f"{_MEDIAN}, proved",
    "certified_accuracy_float32": f"{{eps: {_ACCURACY}}}, proved{_FLOAT32}",
    "mean_radius_float32": f"{_MEAN}, proved{_FLOAT32}",
    "median_radius_float32": f"{_MEDIAN}, proved{_FLOAT32}",
    "float32": "the operation that costs float32 most: its share in the error of logits, on all images; or why refused",
    **_of_each_kind("accuracy", f"{{eps: {_ACCURACY}}}"),
    **_of_each_kind("accuracy_by_construction", f"{{eps: {_BY_CONSTRUCTION}}}"),
    **_of_each_kind("accuracy_by_lipschitz", f"{{eps: {_BY_LIPSCHITZ}}}"),
    **_of_each_kind("mean_radius", _MEAN),
    **_of_each_kind("median_radius", _MEDIAN),
    "mean_gap": "mean margin between the label's logit and the next, misclassified images counting 0",
    "mean_top_gap": "mean of the largest minus the second largest logit over all images; null of older rows",
    "lipschitz_bound": "bound, of the radii's kind, of how far the vector of logits moves while the image moves by 1",
    "lipschitz_of_logits": "the largest such bound of a single logit",
    "lipschitz_of_pairs": "the largest such bound of a difference of two logits, which radii rest on",
    "smallest_bound": "{bound: for how many pairs of logits it is the smallest}: vector, logits or rows",
    "lipschitz_by_construction": "lipschitz_bound as construction gives it, before the layers' norms are measured",
    "enlargement": "the largest factor by which measuring the layers' norms made the bound of a pair of logits smaller",
    "gram_slack": "the part of that factor by which b(W) overestimates the matrices' norms; the rest is the tiling's",
    "failure_probability": "with which a statistical bound is none, at most; null for a proof",
    "splits": "{val or train: images, clean_accuracy, mean_gap, mean_top_gap, claims, of other images certified}",
    "layers": "the layers of the bound, in order, each with its norm, the bound up to it, and what it costs the whole",
    "robust_accuracy": "{attack: {eps: fraction of the attacked images that stay rightly classified}}",
    "broken_at_multiples": "{attack: {factor: {broken, images}}}, each at that multiple of its own certified radius",
    "attacked_images": "{attack: number of test images it was run on}",
    "median_distance": "{attack that looks for the smallest distance: median; null if it failed on half of them}",
    "audit": "{images, pairs, broken, found, smallest_noticed, ...}, of the radii that `lipcert audit` attacked",
    "max_loss_gradient": "largest l2 norm of the cross-entropy's gradient among the test images: no bound",
    "max_jacobian": "largest spectral norm of the logits' Jacobian among them: no bound",
    "max_jacobian_rows": "largest l2 norm of a logit's gradient among them: no bound",
    "parameters": "number of trainable parameters; null in a run of an older version",
    "products": "products of an input and a weight, or differences of them, for an image; null in an older run",
    "epochs": "number of epochs that it was trained for; null in a run of an older version",
    "kept_epoch": "the epoch that the weights are of: the last, or the best by schedule.keep; null in an older run",
    "seconds": "{stage: seconds of wall time}",
    "device": "what it ran on",
    "versions": "{package: version}",
    "git_commit": "commit of the source, null outside a repository",
    "seed": "the seed of everything random",
}


def summary(
    results: Results,
    *,
    config: Mapping[str, Any],
    eps: Sequence[float],
    seconds: Mapping[str, float],
    environment: Mapping[str, Any],
    training: Mapping[str, int] | None = None,
    splits: Mapping[str, Results] | None = None,
    audit: Mapping[str, Any] | None = None,
    attack_radii: Mapping[str, Sequence[float]] | None = None,
    finished: bool = True,
) -> dict[str, Any]:
    """The content of summary.json, which `KEYS` explains. A number that is not proved is not called certified.

    results      of the test images: certified at least once
    config       the run's
    eps          radii to report at, in the norm of the certificates
    seconds      {stage: wall time} of what is not a certificate
    environment  device, versions, git_commit and seed
    training     parameters, products, epochs and kept_epoch, where they are known
    splits       the results of other images than the test images
    audit        what `audits.audit_of` says of the radii
    attack_radii {attack that looks for the smallest distance: radii to report at, in its norm}, where not `eps`

    Where several certificates make a claim of one kind, an image has the largest of their radii. What a Lipschitz bound
    rests on is that of the best certificate of the strongest kind.
    """
    kinds = results.kinds()
    strongest = next(iter(kinds))
    chosen = kinds[strongest][0]
    report = results.facts[chosen]
    rows = results.best(strongest)
    record: dict[str, Any] = {"finished": finished}
    for part in ("model", "dataset"):
        record[part] = config[part].get("_target_")
    record["certificate"] = report.get("target")
    record["certificates"] = {label: results.facts[label]["kind"] for labels in kinds.values() for label in labels}
    record |= {"kind": strongest, "norm": report["norm"], "test_images": len(rows)}
    record["clean_accuracy"] = numbers.clean_accuracy(rows)
    record |= {"mean_gap": numbers.mean_gap(rows), "mean_top_gap": numbers.mean_top_gap(rows)}
    for kind in kinds:
        record |= _claims(results.best(kind), eps)
    if all(row.lipschitz_radius is None for row in rows):
        record |= _by_construction(results.certificates[chosen], eps, report)
    bounds = ["lipschitz_bound", "lipschitz_of_logits", "lipschitz_of_pairs", "smallest_bound"]
    bounds += ["lipschitz_by_construction", "enlargement", "gram_slack", "failure_probability"]
    record |= {key: report.get(key) for key in bounds}
    record["splits"] = {split: _of_split(found, eps) for split, found in (splits or {}).items()}
    record["layers"] = report.get("layers", [])
    if "float32" in report:
        record["float32"] = report["float32"]
    record["robust_accuracy"], record["attacked_images"], record["median_distance"] = {}, {}, {}
    for attack, tried in numbers.attacks(results.attacks):
        reported = (attack_radii or {}).get(attack) or (eps if numbers.attack_norm(attack) == report["norm"] else ())
        at = tried or reported
        record["robust_accuracy"][attack] = {_key(e): numbers.robust_accuracy(results.attacks, attack, e) for e in at}
        record["attacked_images"][attack] = numbers.attacked_count(results.attacks, attack)
        if not tried:
            record["median_distance"][attack] = numbers.median_distance(results.attacks, attack)
    if audit:
        record["audit"] = dict(audit)
    record["broken_at_multiples"] = {
        attack: {
            _key(factor): {"broken": sum(numbers.beaten(row, 0.0) for row in rows_), "images": len(rows_)}
            for factor, rows_ in found.items()
        }
        for attack, found in numbers.at_multiples(results.multiples).items()
    }
    record |= numbers.maxima(results.stability)
    record |= {key: (training or {}).get(key) for key in ("parameters", "products", "epochs", "kept_epoch")}
    record["seconds"] = {"train": seconds["train"], **report["seconds"], **seconds}
    record |= {key: environment[key] for key in ("device", "versions", "git_commit", "seed")}
    return record


def _claims(rows: Sequence[CertificateRow], eps: Sequence[float]) -> dict[str, Any]:
    """The numbers of one kind of claim, under its own word."""
    kind = numbers.kind_of(rows)
    word = numbers.WORDS[kind]
    radius = "" if kind is Kind.PROOF else f"{word}_"
    accuracy = numbers.certified_accuracy if kind is Kind.PROOF else numbers.accuracy_within
    record: dict[str, Any] = {
        f"{word}_accuracy": {_key(e): accuracy(rows, e) for e in eps},
        f"{radius}mean_radius": numbers.mean_radius(rows),
        f"{radius}median_radius": numbers.median_radius(rows),
    }
    if kind is Kind.PROOF and all(row.radius_float32 is not None for row in rows):
        single = [row._replace(radius=row.radius_float32 or 0.0) for row in rows]
        record["certified_accuracy_float32"] = {_key(e): accuracy(single, e) for e in eps}
        record["mean_radius_float32"] = numbers.mean_radius(single)
        record["median_radius_float32"] = numbers.median_radius(single)
    if any(row.lipschitz_radius is not None for row in rows):
        own = [row.radius if row.lipschitz_radius is None else row.lipschitz_radius for row in rows]
        plain = [row._replace(radius=radius_) for row, radius_ in zip(rows, own, strict=True)]
        record[f"{word}_accuracy_by_lipschitz"] = {_key(e): accuracy(plain, e) for e in eps}
    return record


def _of_split(results: Results, eps: Sequence[float]) -> dict[str, Any]:
    """The numbers of images that are not the test images."""
    rows = results.best(next(iter(results.kinds())))
    record: dict[str, Any] = {"images": len(rows), "clean_accuracy": numbers.clean_accuracy(rows)}
    record |= {"mean_gap": numbers.mean_gap(rows), "mean_top_gap": numbers.mean_top_gap(rows)}
    for kind in results.kinds():
        record |= _claims(results.best(kind), eps)
    return record


def _by_construction(rows: Sequence[CertificateRow], eps: Sequence[float], report: Mapping[str, Any]) -> dict[str, Any]:
    """What the certificate of `report` would prove, had the layers' norms not been measured."""
    if report.get("enlargement") is None:
        return {}
    # Never by less than 1: no radius may come out of here larger than it was proved.
    factor = max(1.0, float(report["enlargement"]))
    smaller = [row._replace(radius=row.radius / factor) for row in rows]
    word = numbers.WORDS[numbers.kind_of(rows)]
    return {f"{word}_accuracy_by_construction": {_key(e): numbers.accuracy_within(smaller, e) for e in eps}}


def _key(eps: float) -> str:
    return repr(float(eps))
