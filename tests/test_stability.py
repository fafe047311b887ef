"""How steep a network is at its test images: what is written, what is made of it, and that none of it is a bound."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import certified, refused
from test_reporting import PGD, attacked, certificates, configuration, put_attacks, written
from torch import nn

from lipcert.analyses.separation.figures import stability_curve
from lipcert.analyses.separation.rows import SeparationRow
from lipcert.analyses.stability.angles import angle_statistics
from lipcert.analyses.stability.lemma import in_words, lemma
from lipcert.analyses.stability.linearised import linearised_norm
from lipcert.cli import main
from lipcert.contracts import AttackRow, StabilityRow
from lipcert.evaluation.load import load_run
from lipcert.frozen import Network, freeze
from lipcert.frozen.exact import exact
from lipcert.frozen.gradients import sign_cosines, steepness
from lipcert.frozen.lipschitz import Walk
from lipcert.reporting import error_curves
from lipcert.reporting.groups import group_by_seed, group_names
from lipcert.reporting.table import comparison
from lipcert.runs import numbers
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import find_runs
from lipcert.runs.numbers import maxima

SMALLEST = "smallest_pgd_l2-10"
SMALL = (
    "model=tulip_resnext",
    "model.depth=10",
    "model.width=2",
    "schedule.epochs=4",
    "dataset.subset=300",
    "loss.eps=0.3",
    "trainer=cpu",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("stability") / "run"
    assert main.run("train", [*SMALL, "attack.images=20", f"output_dir={path}"]) == 0
    return path


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def counter_example() -> Network:
    """W1 = [1; 1], W2 = [1, −1], a ReLU between them: 0 as a product of matrices, of slope 1 where one unit is on."""
    first, second = nn.Linear(1, 2), nn.Linear(2, 1)
    with torch.no_grad():
        first.weight.fill_(1)
        first.bias.copy_(torch.tensor([0.0, -1.0]))
        second.weight.copy_(torch.tensor([[1.0, -1.0]]))
    return freeze(nn.Sequential(first, nn.ReLU(), second), (1,))


def test_the_norm_of_the_product_of_the_weights_is_no_bound():
    network = counter_example()
    assert linearised_norm(network) == 0
    seen = steepness(network, torch.tensor([[0.5]], dtype=torch.float64), torch.zeros(1, dtype=torch.long))
    assert seen.jacobian.item() == 1
    assert Walk(network, network.norm).constant(3) == pytest.approx(2) and 2 >= 1  # the product of norms is


def test_lemma_3_3_is_held_against_the_jacobians_in_numbers_and_words():
    """Of the two-layer counter-example, of a network with a smaller bound than one Jacobian, and of a larger one."""
    network = counter_example()
    seen = steepness(network, torch.tensor([[0.5], [2.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.long))
    assert seen.jacobian.tolist() == [1, 0]  # where one unit is on, and where both are
    said = lemma(seen.jacobian.tolist(), linearised_norm(network))
    assert said == {"largest_ratio": math.inf, "images_above": 1}
    known = {"images": 3, "max_jacobian": 5.0, "norm_of_product": 4.0}
    assert lemma([5.0, 4.0, 1.0], 4.0) == {"largest_ratio": 1.25, "images_above": 1}
    words = in_words(known | lemma([5.0, 4.0, 1.0], 4.0))
    assert words.startswith("Lemma 3.3 of TULIP is false here: its bound 4 is below the Jacobian of 1 of 3 images,")
    assert words.endswith("the largest is 5.")
    assert "is not contradicted here: its bound 8" in in_words(known | {"norm_of_product": 8.0} | lemma([5.0], 8.0))
    assert lemma([1.0], "the network is not linear") == {} and in_words({"images": 1}) == ""
    assert lemma([0.0], 0.0) == {"largest_ratio": 0.0, "images_above": 0}


def test_the_cosine_of_a_gradient_and_its_sign_is_its_formula():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    x, y = torch.rand(6, 7, dtype=torch.float64), torch.arange(6) % 4
    found = sign_cosines(freeze(model, (7,)), x, y)
    probe = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(probe), y, reduction="sum"), probe)
    due = nn.functional.cosine_similarity(gradient, gradient.sign())
    torch.testing.assert_close(found, due)
    model[2].weight.data *= 1e4  # so certain that the softmax of all but one class is 0 in float64
    sure = freeze(model, (7,))
    assert sign_cosines(sure, x, sure(x).argmax(1)).isfinite().all()
    model[0].weight.data.zero_()
    flat = sign_cosines(freeze(model, (7,)), x, y)
    assert flat.isnan().all() and angle_statistics(flat.tolist()) == {"smallest_cosine": None, "mean_cosine": None}
    assert angle_statistics([0.25, math.nan, 0.75]) == {"smallest_cosine": 0.25, "mean_cosine": 0.5}


def test_a_linearised_network_is_the_product_of_its_layers():
    torch.manual_seed(0)
    layers = [nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)]
    product = (layers[4].weight @ layers[2].weight @ layers[0].weight).detach().double()
    norm = linearised_norm(freeze(nn.Sequential(*layers), (5,)))
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(product, 2)), rel=1e-6)
    with pytest.raises(ValueError, match="the network is not linear without its activations"):
        linearised_norm(freeze(nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2)), (1, 4, 4)))


def test_a_nominal_run_says_how_steep_it_is_and_certifies_nothing(run):
    summary = json.loads((run / "summary.json").read_text())
    rows = RunDirectory(run).read_rows("stability.csv", StabilityRow)
    _, _, network, dataset = load_run(run)
    x, y = dataset.test.pixels(), dataset.test.labels
    seen = steepness(network, exact(x.double() / 255), y)
    assert [row.index for row in rows] == list(range(359))
    for name, column in seen._asdict().items():
        np.testing.assert_allclose([getattr(row, name) for row in rows], column, rtol=1e-9)
    assert summary["kind"] == "nominal"
    assert not [key for key in summary if key.startswith("certified")]
    assert summary["max_loss_gradient"] == max(row.loss_gradient for row in rows)
    for row, own in zip(certified(run), rows, strict=True):
        due = max(0.0, math.log(2) - own.loss) / summary["max_loss_gradient"] if row.prediction == row.label else 0
        assert row.radius == pytest.approx(due, rel=1e-9)
        assert row.kind == "nominal"
    assert all(row.jacobian >= row.jacobian_rows for row in rows)


def test_no_word_of_a_nominal_record_is_certified(run, capsys):
    assert main.run("compare", [str(run), "output_dir=compared"]) == 0
    said = capsys.readouterr().out + (Path("compared") / "compare.md").read_text()
    assert main.run("certify", [f"run={run}"]) == 0
    said += capsys.readouterr().out
    names = [path.name for path in (Path("compared")).iterdir()]
    assert sorted(names) == ["compare.csv", "compare.md", "curves.png", "curves.svg", "errors.png", "errors.svg"]
    assert "certif" not in said and "certif" not in (Path("compared") / "compare.csv").read_text()
    assert "nominal l2 0.3" in said and "steepest loss gradient" in said and "median distance smallest_pgd" in said


def test_any_run_in_l2_can_be_looked_at(run, capsys):
    """A proof too: its gradients are below its bound, and its certified columns are what they were."""
    before = (run / "stability.csv").read_bytes()
    assert main.run("certify", [f"run={run}", "certificate=pairwise", "analysis=stability"]) == 0
    said = capsys.readouterr().out
    assert "norm of the product of the layers without activations (no bound)" in said
    assert "smallest cosine of the loss's gradient and its sign" in said and "Lemma 3.3 of TULIP is" in said
    content, summary = (json.loads((run / name).read_text()) for name in ("stability.json", "summary.json"))
    assert (run / "stability.csv").read_bytes() == before
    assert content["images"] == 359
    assert summary["kind"] == "proof" and "nominal_accuracy" in summary
    assert content["max_jacobian"] == summary["max_jacobian"] <= content["product_of_norms"]
    assert content["largest_ratio"] == pytest.approx(content["max_jacobian"] / content["norm_of_product"])
    assert (content["images_above"] > 0) == (content["largest_ratio"] > 1)
    assert 1 / 8 <= content["smallest_cosine"] < content["mean_cosine"] <= 1
    assert content["product_of_norms"] == pytest.approx(summary["lipschitz_bound"], rel=1e-9)
    assert main.run("certify", [f"run={run}"]) == 0  # nominal again: the proof stays
    assert json.loads((run / "summary.json").read_text())["kind"] == "proof"


@pytest.mark.slow
def test_on_digits_a_trained_network_is_steeper_than_lemma_3_3_says(tmp_path, capsys):
    """At every test image; it was trained with a penalty on what the lemma takes for a bound, and classifies well."""
    path = tmp_path / "run"
    options = ["model=resnet34", "model.depth=10", "model.width=4", "loss.perturbation=none", "schedule=cosine"]
    options += ["loss.penalty=norm_of_product", "schedule.epochs=5", "schedule.batch_size=32", "optimizer.lr=0.05"]
    assert main.run("train", [*options, "trainer=cpu", "attack=none", f"output_dir={path}"]) == 0
    assert main.run("certify", [f"run={path}", "analysis=stability"]) == 0
    content, summary = (json.loads((path / name).read_text()) for name in ("stability.json", "summary.json"))
    assert summary["clean_accuracy"] > 0.7 and content["images_above"] > 300 and content["largest_ratio"] > 3
    assert "Lemma 3.3 of TULIP is false here" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("model", ["nearest_neighbour", "linf_dist"])
def test_where_there_is_no_product_of_weights_it_is_said_why(tmp_path, capsys, model):
    """Networks without matrices, one of them not certified in l2."""
    path = tmp_path / "run"
    small = ["dataset.subset=100", "attack=none", f"output_dir={path}"]
    small += ["schedule.epochs=1"] if model == "linf_dist" else []
    assert main.run("train", [f"model={model}", *small]) == 0
    assert main.run("certify", [f"run={path}", "analysis=stability"]) == 0
    content, summary = (json.loads((path / name).read_text()) for name in ("stability.json", "summary.json"))
    assert "is not linear without its activations" in content["norm_of_product"]
    assert summary["kind"] == "proof" and summary["max_jacobian"] == content["max_jacobian"] > 0
    capsys.readouterr()
    assert main.run("compare", [str(path), f"output_dir={tmp_path / 'compared'}"]) == 0
    assert "steepest test images, l2 (no bounds)" in capsys.readouterr().out


def test_wrong_requests_are_one_line(run, capsys):
    says = "`separation`: nowhere is not there; `lipcert separation dataset=NAME` writes it"
    assert refused(capsys, "compare", str(run), "separation=nowhere") == says
    said = refused(capsys, "train", "model=linf_dist", "certificate=nominal", "output_dir=another")
    assert said == "`certificate=nominal` looks at gradients in l2, this model is certified in linf"


def smallest(rows, scale, seed):
    draw = np.random.default_rng(seed)
    out = []
    for row in rows[:40]:
        wrong, found = row.prediction != row.label, draw.random() < 0.9
        distance = 0.0 if wrong else scale * draw.random() if found else math.inf
        out.append(AttackRow("test", row.index, "l2", SMALLEST, None, wrong or found, distance))
    return out


def defences(folder):
    """Two defences with two seeds each, and the distances that an attack found of them."""
    for i, (seed, scale) in enumerate([(1, 1.0), (2, 1.2), (1, 3.0), (2, 3.3)]):
        path = written(folder / str(i), configuration(seed, "resnet34", eps=scale // 1), kind="nominal")
        rows = smallest(certificates(), scale, i) + [row for row in attacked(certificates()) if row.attack == PGD]
        put_attacks(RunDirectory(path), rows)
        steep = [StabilityRow("test", 0, 1.0, scale, 5.0, 4.0)]
        RunDirectory(path).write_rows("stability.csv", StabilityRow, steep)
    return find_runs([folder])


def test_an_error_curve_is_its_distances(tmp_path):
    runs = defences(tmp_path)[:2]
    curve = error_curves.error_curve([run.attack_rows for run in runs], SMALLEST)
    for eps in (0.0, 0.1, 0.5, 0.7, 1.1, *curve.x):
        due = np.mean([1 - numbers.robust_accuracy(run.attack_rows, SMALLEST, eps) for run in runs])
        assert curve.y[np.searchsorted(curve.x, eps, side="right") - 1] == pytest.approx(due)
    assert curve.y[0] > 0 and curve.y[-1] < 1  # misclassified images, and failures
    row = AttackRow("test", 0, "l2", SMALLEST, None, False, 0.3)
    odd = [row, row._replace(index=1, success=True, distance=math.nan)]
    assert numbers.distances(odd, SMALLEST) == [math.inf, 0.0]  # no success, no distance; in doubt misclassified
    median = numbers.median_distance(runs[0].attack_rows, SMALLEST)
    assert numbers.robust_accuracy(runs[0].attack_rows, SMALLEST, median) <= 0.5
    with pytest.raises(ValueError, match="was tried at given radii"):
        numbers.distances(runs[0].attack_rows, PGD)


def test_defences_lie_over_one_another_and_over_the_data(tmp_path):
    runs = defences(tmp_path)
    groups = group_by_seed(runs)
    beside = stability_curve([SeparationRow(i, 0, 1, float(i)) for i in range(5)])
    figure = error_curves.errors_figure(groups, group_names(groups)[0], beside)
    (axes,) = figure.axes
    assert axes.get_title() == SMALLEST
    assert [line.get_label() for line in axes.lines] == ["eps=1", "eps=3", beside.label]
    alone = error_curves.errors_figure(groups[:1], ["defence"])
    assert [line.get_label() for line in alone.axes[0].lines] == [SMALLEST]
    other = group_by_seed(find_runs([written(tmp_path / "x", configuration())]))
    assert error_curves.errors_figure(other, ["a"]) is not None
    untried = [[run] for run in runs]
    for (run,) in untried:
        run.attack_rows[:] = [row for row in run.attack_rows if row.attack == PGD]
    assert error_curves.errors_figure(untried, list("abcd")) is None


def test_compare_averages_medians_and_maxima_over_seeds(tmp_path):
    runs = defences(tmp_path)
    table = comparison(runs)
    titles = [column.title for column in table.columns]
    medians = [numbers.median_distance(run.attack_rows, SMALLEST) for run in runs]
    cells = [row[titles.index(f"median distance {SMALLEST}")] for row in table.cells]
    assert [cell.mean for cell in cells] == pytest.approx([np.mean(medians[:2]), np.mean(medians[2:])])
    cells = [row[titles.index("steepest loss gradient")] for row in table.cells]
    assert [cell.mean for cell in cells] == pytest.approx([1.1, 3.15])
    assert f"median distance {PGD}" not in titles
    header = next(csv.reader([table.csv().splitlines()[0]]))
    assert "largest Jacobian norm mean" in header
    assert maxima([]) == {}
