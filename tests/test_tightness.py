"""The tightness analysis: what holds between a proof, estimates by gradients and an attack; where it doesn't, the
command says so."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commandline import TINY, attacked, certified, lipcert, refused
from torch import nn

from lipcert.analyses.tightness import analysis
from lipcert.analyses.tightness.figures import tightness_figure
from lipcert.analyses.tightness.gradients import Steepest, pair_gradients, steepest
from lipcert.analyses.tightness.layer_bounds import MEASURES, layer_bounds
from lipcert.analyses.tightness.pictures import kept_labels
from lipcert.analyses.tightness.rows import RATIOS, TightnessRow, broken_chain, tightness
from lipcert.analyses.tightness.tables import layer_table, ratio_table
from lipcert.certificates.pairwise import Pairwise
from lipcert.cli import main
from lipcert.contracts import AttackRow, CertificateRow
from lipcert.datasets.split import Split
from lipcert.errors import CertificateBroken
from lipcert.evaluation.load import load_run
from lipcert.frozen import Network, freeze
from lipcert.frozen.exact import exact
from lipcert.models.lmt_convnet import LMTConvNet
from lipcert.runs.directory import RunDirectory

NET = ("model=lmt_convnet", "dataset=digits", "model.channels=[4,8]", "model.kernels=[3,3]", "model.hidden=[16]")
QUICK = ("analysis=tightness", "attack.images=40", "draws=3")
FIGURES = {f"{name}.{form}" for name in (analysis.FIGURE, analysis.PICTURE) for form in ("png", "svg")}
FILES = {analysis.ROWS, analysis.CONTENT, *FIGURES}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("tightness") / "run"
    assert main.run("train", [*NET, "schedule.epochs=1", "attack=none", "trainer=cpu", f"output_dir={run}"]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def network(**options) -> Network:
    model = LMTConvNet(input_shape=(1, 8, 8), num_classes=10, channels=[4, 8], kernels=[3, 3], **options)
    return freeze(model, (1, 8, 8))


def split(count: int = 6) -> Split:
    return Split(torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8), torch.randint(0, 10, (count,)))


def analysed(run: Path) -> list[TightnessRow]:
    return RunDirectory(run).read_rows(analysis.ROWS, TightnessRow)


def look(net: Network, images: Split, **options) -> Steepest:
    settings = {"classes": 10, "draws": 2, "noise": 0.1, "seed": 0, "device": "cpu", "batch_size": 4}
    with torch.no_grad():
        return steepest(net, images, **settings | options)


@pytest.mark.slow
def test_a_run_is_analysed_and_the_chain_holds(run, capsys):
    told = lipcert(capsys, "certify", f"run={run}", *QUICK)
    assert told.status == 0, told.err
    assert all(str(ratio) in told.out for ratio in RATIOS) and "Peck / proved" in told.out
    assert {path.name for path in run.iterdir()} >= FILES
    rows, content = analysed(run), json.loads((run / analysis.CONTENT).read_text())
    proofs = certified(run)
    assert [(row.index, row.margin, row.certified_radius) for row in rows] == [
        (row.index, row.margin, row.radius) for row in proofs[:40]
    ]
    assert any(row.certified_radius > 0 for row in rows)
    for row in rows:
        assert row.certified_radius <= row.global_estimate <= row.local_estimate
        assert row.certified_radius < row.attack_distance or row.certified_radius == 0
        assert (row.prediction == row.label) == (row.local_estimate > 0) == (row.attack_distance > 0)
    assert content["attack"].startswith("deepfool_l2") and content["images"] == 40 and content["draws"] == 3
    assert content["ratios"]["global_estimate/certified_radius"] >= 1
    assert not any("certified" in name for name in (*content["medians"], *rows[0]._fields) if "estimate" in name)
    # Again, with other settings: the attack isn't repeated, nothing of the record is lost.
    attacks = (run / "attacks.csv").read_bytes()
    assert lipcert(capsys, "certify", f"run={run}", *QUICK, "draws=0", "certificate=margin").status == 0
    assert (run / "attacks.csv").read_bytes() == attacks
    fewer = analysed(run)
    assert all(b.certified_radius == a.certified_radius for a, b in zip(rows, fewer, strict=True))  # the larger of both
    assert all(b.local_estimate >= a.local_estimate * (1 - 1e-9) for a, b in zip(rows, fewer, strict=True))
    assert set(json.loads((run / "summary.json").read_text())["attacked_images"].values()) == {40}


def test_without_it_nothing_is_analysed(run, capsys):
    assert lipcert(capsys, "certify", f"run={run}", "attack=none").status == 0
    assert not FILES & {path.name for path in run.iterdir()} and not (run / "attacks.csv").exists()


@pytest.mark.parametrize(
    "overrides, says",
    [
        (["analysis=tight"], "`analysis` must be one of tightness, stability, hybrid, deciles or null, got 'tight'"),
        (["draws=-1"], "`draws` must be at least 0, got -1"),
        (["noise=0"], "`noise` must be positive, got 0"),
        (["attack=none"], "`attack` must look for the smallest l2 distance for `analysis=tightness`, got None"),
        (["attack=pgd_l2"], "`attack` must look for the smallest l2 distance"),
        (["attack=pgd_l2", "attack.eps=[1]"], "`attack` must look for the smallest l2 distance"),
        (["attack.images=0"], "`attack.images`: got 0"),
        (["certificate=statistical"], "`analysis=tightness` compares proofs, `certificate` is statistical"),
    ],
)
def test_settings_that_compare_nothing_are_refused(overrides, says, run, capsys):
    assert refused(capsys, "certify", f"run={run}", "analysis=tightness", *overrides).startswith(says)


def test_a_network_for_l_inf_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lipcert(capsys, "train", "model=linf_dist", "model.width=8", *TINY, "output_dir=run").status == 0
    assert "certified in linf: leave it out" in refused(capsys, "certify", "run=run", *QUICK)


@pytest.mark.parametrize("activation", ["relu", "min_max"])
def test_gradients_of_differences_are_those_that_autograd_finds_one_by_one(activation):
    net = network(activation=activation)
    x = exact(split().images / 255)
    logits, norms = pair_gradients(net, x)
    assert torch.equal(logits, net(x))
    for b in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda image: net(image[None])[0], x[b]).flatten(1)
        one_by_one = (jacobian[:, None] - jacobian[None]).norm(dim=2)
        torch.testing.assert_close(norms[b], one_by_one, rtol=1e-9, atol=1e-7 * float(one_by_one.max()))


def test_a_gradient_that_is_not_defined_says_nothing():
    norms = pair_gradients(lambda x: x.abs().sqrt().flatten(1)[:, :3], torch.zeros(1, 1, 2, 2).double())[1]
    assert torch.equal(norms, torch.zeros(1, 3, 3).double())


def test_estimates_are_radii_of_the_steepest_gradients_seen():
    net, images = network(), split()
    images = replace(images, labels=net(exact(images.images / 255)).argmax(1))
    images.labels[0] = (images.labels[0] + 1) % 10  # misclassified
    alone, seen = look(net, images, draws=0), look(net, images)
    gradients = pair_gradients(net, exact(images.images / 255))[1]
    assert torch.equal(alone.anywhere, gradients.amax(0)) and (seen.anywhere >= alone.anywhere).all()
    logits = net(exact(images.images / 255))
    for i, t in enumerate(images.labels.tolist()):
        wrong = [j for j in range(10) if j != t]
        by = [float((logits[i, t] - logits[i, j]) / gradients[i, t, j]) for j in wrong]
        assert float(alone.local_estimates()[i]) == pytest.approx(max(min(by), 0.0))
    assert seen.local_estimates()[0] == 0 and (seen.local_estimates() >= seen.global_estimates()).all()
    again = look(net, images)
    assert all(torch.equal(a, b) for a, b in zip(seen[:4], again[:4], strict=True))
    assert not torch.equal(look(net, images, seed=1).near, seen.near)


def test_a_linear_network_is_as_steep_as_its_bound():
    """Where gradients reach the bound, rounding must not be taken for a broken certificate."""
    net = freeze(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8))
    bound = Pairwise()(net)
    steep = look(net, split(50))
    analysis.check_gradients(bound.pairs, steep)
    torch.testing.assert_close(steep.anywhere, bound.pairs, rtol=1e-9, atol=1e-7)
    with pytest.raises(CertificateBroken, match="has a gradient of norm"):
        analysis.check_gradients(bound.pairs * 0.999, steep)


class Boastful(Pairwise):
    """Claims a tenth of what its bound is, and ten times the radii."""

    def __call__(self, network):
        bound = super().__call__(network)

        def judge(x, y):
            verdict = bound.judge(x, y)
            return verdict._replace(radius=self.factor * verdict.radius)

        return replace(bound, judge=judge, pairs=bound.pairs / self.claim)

    def __init__(self, factor: float, claim: float):
        super().__init__()
        self.factor, self.claim = factor, claim


@pytest.mark.parametrize(
    "factor, claim, found", [(1, 100, "gradient of norm"), (1e4, 1, "found an adversarial image at l2 distance")]
)
def test_a_wrong_certificate_is_found_out(factor, claim, found, run, capsys):
    boast = f"{{_target_: test_tightness.Boastful, factor: {factor}, claim: {claim}}}"
    told = lipcert(capsys, "certify", f"run={run}", *QUICK, f"++certificate={boast}")
    assert told.status == 3 and found in told.err and told.err.count("\n") == 1
    assert not FILES & {path.name for path in run.iterdir()}


@pytest.mark.slow
def test_rows_of_another_network_are_found_out(run, capsys):
    """Distances in attacks.csv that another network was attacked at."""
    assert lipcert(capsys, "certify", f"run={run}", *QUICK).status == 0
    nearer = [row._replace(distance=row.distance / 100) for row in attacked(run)]
    RunDirectory(run).write_rows("attacks.csv", AttackRow, nearer)
    told = lipcert(capsys, "certify", f"run={run}", *QUICK)
    assert told.status == 3 and "the files are of different networks" in told.err


ROW = TightnessRow("test", 0, 1, 1, 2.0, 1.0, 1.5, 1.6, 2.0)


@pytest.mark.parametrize(
    "changes, column",
    [
        ({}, None),
        ({"global_estimate": 1.0}, None),
        ({"global_estimate": 0.999}, "global_estimate"),
        ({"attack_distance": 1.0}, "attack_distance"),
        ({"attack_distance": math.nan}, "attack_distance"),
        ({"attack_distance": math.inf}, None),
        ({"certified_radius": 0.0, "attack_distance": 0.0, "global_estimate": 0.0}, None),
    ],
)
def test_the_chain_is_held_image_by_image(changes, column):
    rows = [ROW, ROW._replace(index=1, **changes)]
    assert [(row.index, name) for row, name in broken_chain(rows)] == ([] if column is None else [(1, column)])
    estimates = torch.tensor([[row.global_estimate, row.local_estimate] for row in rows], dtype=torch.float64)

    class Seen:
        global_estimates, local_estimates = lambda self: estimates[:, 0], lambda self: estimates[:, 1]
        batch_estimates = lambda self: None  # noqa: E731

    proofs = [CertificateRow("test", row.index, "l2", "pairwise", "proof", *row[2:6]) for row in rows]
    found = {row.index: row.attack_distance for row in rows}
    if column is None:
        assert analysis.join(proofs, Seen(), found) == rows
    else:
        with pytest.raises(CertificateBroken, match=f"image 1: .* {column.replace('_', ' ')}"):
            analysis.join(proofs, Seen(), found)


@pytest.mark.parametrize("rows", [[ROW._replace(certified_radius=0.0)], [ROW._replace(attack_distance=math.inf)]])
def test_there_may_be_nothing_to_compare(rows):
    content = tightness(rows, [])
    assert content["compared"] == (rows[0].certified_radius > 0)
    ratio_table(content | {"attack": "deepfool_l2"}), layer_table([])
    tightness_figure(rows, [], "deepfool_l2", "nothing")


def test_layers_are_measured_by_every_bound_and_the_proved_one_is_least():
    net = network(hidden=[16], strides=[1, 2])
    *layers, whole = layer_bounds(net)
    assert len(layers) == 4 and whole["layer"] == "network"
    for name in MEASURES:
        assert whole[name] == pytest.approx(math.prod(row[name] for row in layers))
        assert all(row["proved"] <= row[name] * (1 + 1e-9) for row in layers)
    weight = net.operations[2].weight
    peck = float(weight.norm()) * math.sqrt(4)  # kernels of 3 at stride 2: an entry is in 2 x 2 windows
    assert layers[1]["peck"] == pytest.approx(peck)
    assert layers[1]["parseval"] == pytest.approx(3 * float(torch.linalg.matrix_norm(weight.flatten(1), 2)))


def test_pictures_lie_within_the_ball_and_keep_the_label(run):
    _, _, net, dataset = load_run(run)
    rows = certified(run)
    with torch.no_grad():
        kept = kept_labels(net, dataset.test.pixels(), rows, "cpu")
        wrong = [row._replace(radius=100 * row.radius) for row in rows]
        with pytest.raises(CertificateBroken, match="within its certified radius"):
            kept_labels(net, dataset.test.pixels(), wrong, "cpu")
    assert len({one.label for one in kept}) == len(kept) == 4
    for one in kept:
        assert 0.99 * one.radius < float((one.changed - one.image).norm()) <= one.distance < one.radius
        assert rows[one.number].radius == one.radius and one.other != one.label
        assert ((one.changed >= 0) & (one.changed <= 1)).all()
        assert int(net(one.changed[None]).argmax()) == one.label
    assert kept_labels(net, dataset.test.pixels(), [row._replace(radius=0.0) for row in rows], "cpu") == []
