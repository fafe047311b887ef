"""On a GPU: the same promises. None of these has run yet: no GPU was at hand when they were written."""

import pytest
import torch
from commandline import certified

from lipcert.analyses.separation.distances import separation
from lipcert.cli import main
from lipcert.contracts import StabilityRow
from lipcert.frozen.exact import exact_arithmetic
from lipcert.runs.directory import RunDirectory

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_on_the_gpu(tmp_path, precision):
    directory = tmp_path / "run"
    arguments = ["trainer=gpu", f"trainer.precision={precision}", "schedule.epochs=20", f"output_dir={directory}"]
    assert main.run("train", arguments) == 0
    there = certified(directory)
    assert sum(row.prediction == row.label for row in there) / len(there) > 0.8
    assert main.run("certify", [f"run={directory}", "device=cpu"]) == 0
    here = certified(directory)
    for a, b in zip(there, here, strict=True):  # float64 on both, summed in another order
        assert a.prediction == b.prediction and a.radius == pytest.approx(b.radius, abs=1e-9)


@pytest.mark.parametrize(
    "attack", ["fgsm", "pgd_l2", "pgd_linf", "carlini_wagner_l2", "deepfool_l2", "smallest_pgd_l2", "boundary_l2"]
)
def test_an_attack_on_the_gpu_breaks_no_certificate(tmp_path, attack):
    directory = tmp_path / "run"
    assert main.run("train", ["trainer=gpu", "schedule.epochs=5", "attack=none", f"output_dir={directory}"]) == 0
    steps = ["attack.steps=20"] if attack not in ("fgsm", "smallest_pgd_l2") else []
    assert main.run("attack", [f"run={directory}", f"attack={attack}", "attack.images=50", "device=cuda", *steps]) == 0


@pytest.mark.parametrize(
    "model",
    ["l2nnn_deep", "l2nnn_resnet", "convnet", "nearest_neighbour", "lmt_convnet", "lmt_resnet", "parseval_resnet"],
)
def test_every_architecture_on_the_gpu(tmp_path, model):
    small = ["model.shared=2", "model.branch=2"] if model == "l2nnn_deep" else []
    arguments = ["trainer=gpu", f"model={model}", "attack=none", f"output_dir={tmp_path / 'run'}", *small]
    arguments += [] if model == "nearest_neighbour" else ["schedule.epochs=1"]
    assert main.run("train", arguments) == 0


@pytest.mark.parametrize("by", ["double_backprop", "finite_difference"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_tulip_on_the_gpu_sees_the_same_gradients_there(tmp_path, precision, by):
    run = tmp_path / "run"
    arguments = ["model=tulip_resnext", "model.depth=10", "model.width=4", "attack=none", "trainer=gpu"]
    arguments += [f"trainer.precision={precision}", f"loss.penalty_by={by}", "schedule.epochs=2", f"output_dir={run}"]
    assert main.run("train", arguments) == 0
    there = RunDirectory(run).read_rows("stability.csv", StabilityRow)
    assert main.run("certify", [f"run={run}", "device=cpu"]) == 0
    for a, b in zip(there, RunDirectory(run).read_rows("stability.csv", StabilityRow), strict=True):
        assert a[2:] == pytest.approx(b[2:], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("pixels", [784, 3072, 33000])
def test_distances_between_labels_are_the_same_integers(pixels):
    images, labels = torch.randint(0, 256, (500, pixels), dtype=torch.uint8), torch.randint(0, 5, (500,))
    images[:20] = images[20:40]
    with exact_arithmetic():
        there, here = (separation(images, labels, batch_size=64, device=device) for device in ("cuda", "cpu"))
    assert there.squared.equal(here.squared) and there.nearest.equal(here.nearest)
    assert (there.least, there.pair, there.duplicates) == (here.least, here.pair, here.duplicates)
