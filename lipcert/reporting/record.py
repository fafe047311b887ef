"""summary.json: what a run claims, put together from its rows. Plain JSON, null where a number is not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipcert.contracts import AttackRow, CertificateRow, Kind
from lipcert.reporting import numbers
from lipcert.reporting.files import write_atomic
from lipcert.reporting.numbers import decimal, percent
from lipcert.reporting.stability import MAXIMA, StabilityRow, maxima

if TYPE_CHECKING:
    from rich.table import Table


def _of_each_kind(key: str, says: str) -> dict[str, str]:
    doubts = {"statistical": "holds with a stated probability", "nominal": "an estimate, no guarantee"}
    return {f"{word}_{key}": f"{says}: {doubt}" for word, doubt in doubts.items()}


_ACCURACY = "fraction of test images classified rightly with a radius of eps or more"
_BY_CONSTRUCTION = "the same with the bound that construction gives, before the layers' norms are measured"
_BY_LIPSCHITZ = "the same by the network's Lipschitz bound alone, where the certificate looks at each image by itself"
_MEAN, _MEDIAN = "mean radius, misclassified images counting 0", "median radius, misclassified images counting 0"

# Every key of summary.json in one phrase. Fractions are of 1, eps, radii and distances in pixels of [0, 1].
KEYS: dict[str, str] = {
    "finished": "whether every stage that was asked for is in this record",
    "model": "what built the network",
    "dataset": "what built the data set",
    "certificate": "what computed the radii",
    "kind": "what a radius claims: proof, statistical or nominal",
    "norm": "the norm of the radii: l2 or linf",
    "test_images": "number of test images in certificates.csv",
    "clean_accuracy": "fraction of test images classified rightly",
    "certified_accuracy": f"{{eps: {_ACCURACY}}}, proved",
    "certified_accuracy_by_construction": f"{{eps: {_BY_CONSTRUCTION}}}",
    "certified_accuracy_by_lipschitz": f"{{eps: {_BY_LIPSCHITZ}}}",
    "mean_radius": f"{_MEAN}, proved",
    "median_radius": f"{_MEDIAN}, proved",
    **_of_each_kind("accuracy", f"{{eps: {_ACCURACY}}}"),
    **_of_each_kind("accuracy_by_construction", f"{{eps: {_BY_CONSTRUCTION}}}"),
    **_of_each_kind("accuracy_by_lipschitz", f"{{eps: {_BY_LIPSCHITZ}}}"),
    **_of_each_kind("mean_radius", _MEAN),
    **_of_each_kind("median_radius", _MEDIAN),
    "mean_gap": "mean margin between the label's logit and the next, misclassified images counting 0",
    "lipschitz_bound": "bound, of the radii's kind, of how far the vector of logits moves while the image moves by 1",
    "lipschitz_of_logits": "the largest such bound of a single logit",
    "lipschitz_of_pairs": "the largest such bound of a difference of two logits, which radii rest on",
    "smallest_bound": "{bound: for how many pairs of logits it is the smallest}: vector, logits or rows",
    "lipschitz_by_construction": "lipschitz_bound as construction gives it, before the layers' norms are measured",
    "enlargement": "the largest factor by which measuring the layers' norms made the bound of a pair of logits smaller",
    "gram_slack": "the part of that factor by which b(W) overestimates the matrices' norms; the rest is the tiling's",
    "failure_probability": "with which a statistical bound is none, at most; null for a proof",
    "layers": "the layers of the bound, in order, each with its norm, the bound up to it, and what it costs the whole",
    "robust_accuracy": "{attack: {eps: fraction of the attacked images that stay rightly classified}}",
    "attacked_images": "{attack: number of test images it was run on}",
    "median_distance": "{attack that looks for the smallest distance: median; null if it failed on half of them}",
    "max_loss_gradient": "largest l2 norm of the cross-entropy's gradient among the test images: no bound",
    "max_jacobian": "largest spectral norm of the logits' Jacobian among them: no bound",
    "max_jacobian_rows": "largest l2 norm of a logit's gradient among them: no bound",
    "seconds": "{stage: seconds of wall time}",
    "device": "what it ran on",
    "versions": "{package: version}",
    "git_commit": "commit of the source, null outside a repository",
    "seed": "the seed of everything random",
}


def summary(
    *,
    config: Mapping[str, Any],
    certificate_rows: Sequence[CertificateRow],
    attack_rows: Sequence[AttackRow] = (),
    stability_rows: Sequence[StabilityRow] = (),
    norm: str,
    eps: Mapping[str, Sequence[float]],
    report: Mapping[str, Any],
    seconds: Mapping[str, float],
    environment: Mapping[str, Any],
    finished: bool = True,
) -> dict[str, Any]:
    """The content of summary.json; `KEYS` says what each key means. A number that isn't proved isn't called certified.

    `norm` is the certificate's, `eps` {norm: radii to report at}, `report` a certificate's, `environment` has device,
    versions, git_commit and seed. Without certificate rows (not certified yet) what is a query on them is left out.
    """
    record: dict[str, Any] = {"finished": finished}
    for part in ("model", "dataset", "certificate"):
        chosen = config.get(part)
        record[part] = chosen.get("_target_") if isinstance(chosen, Mapping) else chosen
    record["certificate"] = report.get("target", record["certificate"])  # certified again, perhaps by another one
    if certificate_rows:
        record |= _certified(certificate_rows, norm, eps.get(norm, ()), report)
    bounds = ["lipschitz_bound", "lipschitz_of_logits", "lipschitz_of_pairs", "smallest_bound"]
    bounds += ["lipschitz_by_construction", "enlargement", "gram_slack", "failure_probability"]
    record |= {key: report.get(key) for key in bounds}
    record["layers"] = report.get("layers", [])
    record["robust_accuracy"], record["attacked_images"], record["median_distance"] = {}, {}, {}
    for attack, tried in numbers.attacks(attack_rows):
        at = tried or eps.get(numbers.attack_norm(attack), ())
        record["robust_accuracy"][attack] = {_key(e): numbers.robust_accuracy(attack_rows, attack, e) for e in at}
        record["attacked_images"][attack] = numbers.attacked_count(attack_rows, attack)
        if not tried:
            record["median_distance"][attack] = numbers.median_distance(attack_rows, attack)
    record |= maxima(stability_rows)
    record["seconds"] = seconds
    record |= {key: environment[key] for key in ("device", "versions", "git_commit", "seed")}
    return _plain(record)


def write_json_atomic(path: str | Path, content: Any) -> None:
    """Replaces `path` by `content` as readable JSON, in one step; what is not finite becomes null."""
    write_atomic(path, json.dumps(_plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def run_table(summary: Mapping[str, Any], where: str | Path | None = None) -> Table:
    """What a run's summary.json claims, for the terminal; `where` is the run's directory."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, show_header=False, caption=escape(f"in {where}") if where else None, caption_justify="left"
    )
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for name, value in _lines(summary):
        table.add_row(escape(name), value)
    return table


def layer_table(summary: Mapping[str, Any]) -> Table | None:
    """The bound of a run's summary.json layer by layer, and what each layer costs it; None where it has no layers."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    if not summary["layers"]:
        return None
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("layer", overflow="fold")
    for heading in ("norm", "bound so far", "cost to the bound"):
        table.add_column(heading, justify="right")
    for row in summary["layers"]:
        numbers_ = (f"{row[key]:.6g}" if row.get(key) is not None else "" for key in ("norm", "lipschitz"))
        table.add_row(escape(row["layer"]), *numbers_, f"× {row['cost']:.4g}" if "cost" in row else "")
    return table


def _certified(
    rows: Sequence[CertificateRow], norm: str, eps: Sequence[float], report: Mapping[str, Any]
) -> dict[str, Any]:
    kind = numbers.kind_of(rows)
    word = numbers.WORDS[kind]
    radius = "" if word == "certified" else f"{word}_"
    accuracy = numbers.certified_accuracy if word == "certified" else numbers.accuracy_within
    record: dict[str, Any] = {
        "kind": kind,
        "norm": norm,
        "test_images": len(rows),
        "clean_accuracy": numbers.clean_accuracy(rows),
        f"{word}_accuracy": {_key(e): accuracy(rows, e) for e in eps},
        f"{radius}mean_radius": numbers.mean_radius(rows),
        f"{radius}median_radius": numbers.median_radius(rows),
        "mean_gap": numbers.mean_gap(rows),
    }
    plain = [row._replace(radius=row.lipschitz_radius) for row in rows if row.lipschitz_radius is not None]
    if len(plain) == len(rows):
        record[f"{word}_accuracy_by_lipschitz"] = {_key(e): accuracy(plain, e) for e in eps}
    elif report.get("enlargement") is not None:
        # Never by less than 1: no radius may come out of here larger than it was proved.
        factor = max(1.0, float(report["enlargement"]))
        smaller = [row._replace(radius=row.radius / factor) for row in rows]
        record[f"{word}_accuracy_by_construction"] = {_key(e): accuracy(smaller, e) for e in eps}
    return record


def _key(eps: float) -> str:
    return repr(float(eps))


def _plain(value: Any) -> Any:
    """`value` in JSON's own types: numpy numbers and arrays as Python's, a number that isn't finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)


def _lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "kind" in summary:
        word, norm = numbers.WORDS[Kind(summary["kind"])], summary["norm"]
        claim = summary["kind"] == Kind.PROOF
        prefix = "" if claim else f"{word}_"
        yield f"clean accuracy, {summary['test_images']:,} images", f"{percent(summary['clean_accuracy'])} %"
        for eps, value in summary[f"{word}_accuracy"].items():
            yield f"{word} accuracy at {norm} {eps}", f"{percent(value, claim)} %"
        for eps, value in summary.get(f"{word}_accuracy_by_lipschitz", {}).items():
            yield f"... by the Lipschitz bound alone, at {eps}", f"{percent(value, claim)} %"
        for radius in ("mean_radius", "median_radius"):
            yield f"{word} {radius.replace('_', ' ')}, {norm}", decimal(summary[prefix + radius], claim)
    for attack, accuracies in summary["robust_accuracy"].items():
        images = summary["attacked_images"][attack]
        for eps, value in accuracies.items():
            yield f"robust accuracy at {eps}, {attack}, {images:,} images", f"{percent(value)} %"
    if "mean_gap" in summary:
        yield "mean gap", decimal(summary["mean_gap"])
    for attack, distance in summary["median_distance"].items():
        yield f"median distance, {attack}, {summary['attacked_images'][attack]:,} images", decimal(distance)
    for key, (_, name) in MAXIMA.items():
        if key in summary:
            yield f"{name}, {summary['test_images']:,} images", decimal(summary[key])
    for key in ("lipschitz_bound", "enlargement"):
        if summary[key] is not None:
            yield key.replace("_", " ").replace("lipschitz", "Lipschitz"), f"{summary[key]:.6g}"
    verb = "certify" if summary.get("kind", Kind.PROOF) == Kind.PROOF else "judge"  # what is no proof certifies nothing
    for stage, seconds in summary["seconds"].items():
        yield f"seconds to {verb if stage == 'certify' else stage}", f"{seconds:.1f}"
    if "test_images" in summary:
        yield f"milliseconds to {verb} an image", f"{1000 * summary['seconds']['certify'] / summary['test_images']:.3g}"
