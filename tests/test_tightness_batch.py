"""The tightness analysis by batches, as in the code of LMT's authors, and what a radius says of single pixels."""

import json
import math
from dataclasses import replace

import pytest
import torch
from commandline import lipcert, refused
from test_tightness import NET, look, network, split

from lipcert.analyses.tightness import analysis
from lipcert.analyses.tightness.equivalents import equivalents
from lipcert.analyses.tightness.gradients import pair_gradients
from lipcert.analyses.tightness.rows import TightnessRow
from lipcert.cli import main
from lipcert.frozen.exact import exact
from lipcert.runs.directory import RunDirectory


def test_the_estimate_of_a_batch_is_by_the_steepest_gradient_of_any_of_its_images():
    net, images = network(), split(6)
    with torch.no_grad():
        x = exact(images.images / 255)
        images = replace(images, labels=net(x).argmax(1))
        norms = pair_gradients(net, x)[1]
    seen = look(net, images, draws=0, by_batch=True, batch_size=4)
    for part in (slice(0, 4), slice(4, 6)):
        assert torch.equal(seen.batch[part], norms[part].amax(0)[images.labels[part]])
    assert torch.equal(seen.near, norms[range(6), images.labels]) and torch.equal(seen.anywhere, norms.amax(0))
    more = look(net, images, draws=3, by_batch=True, batch_size=4)
    assert (more.batch >= seen.batch).all() and (more.batch >= more.near).all()
    assert (more.global_estimates() <= more.batch_estimates()).all()
    assert (more.batch_estimates() <= more.local_estimates()).all()
    assert look(net, images).batch is None and look(net, images).batch_estimates() is None


def test_the_noise_of_a_batch_is_one_vector_of_norm_noise_times_its_root(monkeypatch):
    from lipcert.analyses.tightness import gradients

    at = []
    real = gradients.pair_gradients
    monkeypatch.setattr(gradients, "pair_gradients", lambda net, x: (at.append(x), real(net, x))[1])
    images = split(4)
    look(network(), images, draws=2, noise=0.5, by_batch=True, batch_size=4)
    steps = [(x - exact(images.images / 255)).flatten(1) for x in at]
    assert [float(step.norm()) for step in steps] == pytest.approx([0, 1, 1])  # 0.5·√4
    assert len({round(float(row.norm()), 6) for row in steps[1]}) == 4


def test_a_batch_is_looked_at_in_parts_that_fit(monkeypatch):
    from lipcert.analyses.tightness import gradients

    net, images = network(), split(6)
    whole = look(net, images, by_batch=True, batch_size=6)
    monkeypatch.setattr(gradients, "images_at_once", lambda *_: 2)
    parts = look(net, images, by_batch=True, batch_size=6)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("radius", "shape", "linf", "by_one", "whole"),
    [
        (1.02, (1, 28, 28), 1.02 / 28, 784, 1),
        (0.08, (3, 32, 32), 0.08 / math.sqrt(3072), 416, 0),  # LMT, Section 6: 400 values by one
        (20 / 255, (3, 32, 32), 20 / 255 / math.sqrt(3072), 399, 0),  # 400 reach the radius itself, which is not within
        (2.0, (1, 8, 8), 0.25, 64, 3),  # four pixels are at the radius itself, not within it
        (3.0, (3, 4, 4), 3 / math.sqrt(48), 48, 2),
        (0.0, (1, 8, 8), 0.0, 0, 0),
        (math.inf, (1, 8, 8), math.inf, 64, 64),
    ],
)
def test_a_radius_in_other_words(radius, shape, linf, by_one, whole):
    said = equivalents(radius, [radius], shape)
    assert said["linf"] == pytest.approx(linf) and said["linf"] * math.sqrt(math.prod(shape)) <= radius
    assert (said["values_by_one"], said["whole_pixels"]) == (by_one, whole)


def test_images_that_withstand_any_change_of_one_pixel_are_those_with_more_than_its_largest_change():
    assert equivalents(1.0, [0.0, 1.0, 1.1, 1.8], (1, 8, 8))["any_pixel"] == 0.5
    assert equivalents(1.0, [0.0, 1.0, 1.1, 1.8], (3, 8, 8))["any_pixel"] == 0.25
    assert equivalents(0.0, [], (1, 8, 8))["any_pixel"] == 0.0


@pytest.mark.slow
def test_a_run_is_analysed_by_batches(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ("analysis=tightness", "attack.images=40", "draws=2")
    assert main.run("train", [*NET, "schedule.epochs=1", "attack=none", "output_dir=run"]) == 0
    assert "`gradients` must be one of image, batch, got 'all'" in refused(
        capsys, "certify", "run=run", "gradients=all"
    )
    told = lipcert(capsys, "certify", "run=run", *quick, "gradients=batch", "batch_size=6")
    assert told.status == 0, told.err
    assert "steepest of 6 images: no bound" in told.out and "(ii) batch estimate / global estimate" in told.out
    assert "pixels that may change in any way" in told.out and "average of 2×2" in told.out
    content = json.loads((tmp_path / "run" / analysis.CONTENT).read_text())
    rows = RunDirectory(tmp_path / "run").read_rows(analysis.ROWS, TightnessRow)
    assert all(row.global_estimate <= row.batch_estimate <= row.local_estimate for row in rows)
    assert content["gradients"] == "batch" and content["batch_size"] == 6
    assert content["ratios"]["batch_estimate/global_estimate"] >= 1 and len(content["pools"]) == 2
    assert set(content["equivalents"]) == {"linf", "values_by_one", "whole_pixels", "any_pixel"}
    assert all(one["distance"] < one["radius"] for one in content["pictures"])
    assert lipcert(capsys, "certify", "run=run", *quick).status == 0
    content = json.loads((tmp_path / "run" / analysis.CONTENT).read_text())
    assert "batch_size" not in content and "batch_estimate" not in content["medians"]
