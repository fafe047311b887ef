"""The settings of attacks: their labels, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from linear_problem import Linear
from torch import nn

from lipcert.attacks.auto_projected_gradient import AutoProjectedGradient
from lipcert.attacks.boundary import BoundaryL2
from lipcert.attacks.carlini_wagner import CarliniWagnerL2
from lipcert.attacks.carlini_wagner_linf import CarliniWagnerLinf
from lipcert.attacks.deep_fool import DeepFoolL2
from lipcert.attacks.fast_gradient import FastGradient
from lipcert.attacks.fast_minimum_norm import FastMinimumNorm
from lipcert.attacks.projected_gradient import ProjectedGradient
from lipcert.attacks.smallest import SmallestDistance
from lipcert.attacks.softened import Softened
from lipcert.attacks.square import Square
from lipcert.contracts import Norm


def test_labels_tell_what_decides_the_strength():
    assert CarliniWagnerL2().label == "carlini_wagner_l2-1000x9"
    assert CarliniWagnerL2(steps=10, restarts=4, stepsize=0.1).label == "carlini_wagner_l2-10x9-step0.1-r4"
    assert CarliniWagnerLinf(radii=[0.1]).label == "carlini_wagner_linf-1000"
    short = CarliniWagnerLinf(
        steps=9, initial_const=0.01, largest_const=1, decrease=0.8, bisections=0, abort_early=False
    )
    assert short.label == "carlini_wagner_linf-9-const0.01-largest1-decrease0.8-bisections0-no_abort"
    assert DeepFoolL2().label == "deepfool_l2-50"
    assert DeepFoolL2(steps=9, overshoot=0.1, candidates=None).label == "deepfool_l2-9-overshoot0.1-all"
    assert DeepFoolL2(candidates=3).label == "deepfool_l2-50-top3"
    assert ProjectedGradient(norm=Norm.L2, eps=[1]).label == "pgd_l2-40"
    assert ProjectedGradient(norm=Norm.LINF, eps=1, loss="margin", restarts=2).label == "pgd_linf-40-margin-r2"
    assert FastGradient(norm=Norm.LINF, eps=[0.1]).label == "fgsm_linf"
    assert AutoProjectedGradient(norm=Norm.L1, eps=[1], steps=9, loss="ce", targets=2).label == "apgd_l1-9-ce-t2"
    assert Square(norm=Norm.L2, eps=[1], share=0.5).label == "square_l2-5000-share0.5"
    assert FastMinimumNorm(norm=Norm.LINF, bisections=0).label == "fmn_linf-200-bisections0"
    assert Softened(eps=[1]).label == "softened_linf-40"
    assert Softened(eps=[1], exponents=[8]).label == "softened_linf-40-p8"
    assert BoundaryL2().label == "boundary_l2-500"
    assert BoundaryL2(steps=9, directions=3, adapt_every=10).label == "boundary_l2-9-directions3-adapt10"
    signs = FastGradient(norm=Norm.LINF, eps=None, loss="ce")
    line = SmallestDistance(name="line", inner=signs, start=0.01, growth=None, tries=9, bisections=3)
    assert line.label == "line_l2-sign-ce-start0.01-even-tries9-bisections3"
    descent = ProjectedGradient(norm=Norm.L2, eps=None, steps=10, rel_stepsize=0.1)
    assert SmallestDistance(name="s", inner=descent, growth=2).label == "s_l2-10-step0.1-growth2"


def smallest(**settings) -> SmallestDistance:
    return SmallestDistance(**{"name": "line", "inner": FastGradient(norm=Norm.L2, eps=None), **settings})


@pytest.mark.parametrize(
    "build, key",
    [
        (lambda: ProjectedGradient(norm="l3", eps=[1]), "norm"),
        (lambda: ProjectedGradient(norm=Norm.L1, eps=[1]), "norm"),
        (lambda: FastGradient(norm="l1", eps=[1]), "norm"),
        (lambda: ProjectedGradient(norm=Norm.L2, eps=[0.1, -1]), "eps"),
        (lambda: ProjectedGradient(norm=Norm.L2, eps=[math.nan]), "eps"),
        (lambda: ProjectedGradient(norm=Norm.L2, eps=[1], steps=0), "steps"),
        (lambda: ProjectedGradient(norm=Norm.L2, eps=[1], rel_stepsize=0), "rel_stepsize"),
        (lambda: ProjectedGradient(norm=Norm.L2, eps=[1], restarts=2, random_start=False), "restarts"),
        (lambda: FastGradient(norm=Norm.L2, eps=[1], loss="hinge"), "loss"),
        (lambda: FastGradient(norm=Norm.L2, eps=[1], images=0), "images"),
        (lambda: CarliniWagnerL2(batch_size=1.5), "batch_size"),
        (lambda: CarliniWagnerL2(confidence=-1), "confidence"),
        (lambda: CarliniWagnerLinf(steps=0), "steps"),
        (lambda: CarliniWagnerLinf(stepsize=0), "stepsize"),
        (lambda: CarliniWagnerLinf(initial_const=1, largest_const=1), "largest_const"),
        (lambda: CarliniWagnerLinf(decrease=1), "decrease"),
        (lambda: CarliniWagnerLinf(bisections=-1), "bisections"),
        (lambda: CarliniWagnerLinf(confidence=math.nan), "confidence"),
        (lambda: CarliniWagnerLinf(radii=[-0.1]), "radii"),
        (lambda: CarliniWagnerLinf()(nn.Identity(), torch.zeros(1, 2), torch.zeros(1), torch.ones(1)), "carlini"),
        (lambda: DeepFoolL2(steps=0), "steps"),
        (lambda: DeepFoolL2(overshoot=-0.1), "overshoot"),
        (lambda: DeepFoolL2(overshoot=math.inf), "overshoot"),
        (lambda: DeepFoolL2(candidates=1), "candidates"),
        (lambda: DeepFoolL2(candidates=2.5), "candidates"),
        (lambda: DeepFoolL2(batch_size=0), "batch_size"),
        (lambda: DeepFoolL2(images=-1), "images"),
        (lambda: AutoProjectedGradient(norm="l3", eps=[1]), "norm"),
        (lambda: AutoProjectedGradient(norm="l1", eps=[1], loss="ce+hinge"), "loss"),
        (lambda: AutoProjectedGradient(norm="l1", eps=[1], targets=-1), "targets"),
        (lambda: Square(norm="l1", eps=[1], share=1.5), "share"),
        (lambda: FastMinimumNorm(norm="l1", shrink=1.0), "shrink"),
        (lambda: FastMinimumNorm(norm="l1", bisections=-1), "bisections"),
        (lambda: Softened(eps=[1], exponents=[math.inf]), "exponents"),
        (lambda: smallest(name="l2"), "name"),
        (lambda: smallest(name="line_l1"), "name"),
        (lambda: smallest(name=""), "name"),
        (lambda: smallest(inner=DeepFoolL2()), "inner"),
        (lambda: smallest(norm=Norm.L1), "norm"),
        (lambda: smallest(start=0.0), "start"),
        (lambda: smallest(start=math.nan), "start"),
        (lambda: smallest(growth=1.0), "growth"),
        (lambda: smallest(tries=0), "tries"),
        (lambda: smallest(bisections=-1), "bisections"),
        (lambda: smallest(images=0), "images"),
        (lambda: smallest()(nn.Identity(), torch.zeros(1, 2), torch.zeros(1), torch.ones(1)), "line_l2"),
        (lambda: BoundaryL2(steps=0), "steps"),
        (lambda: BoundaryL2(directions=0), "directions"),
        (lambda: BoundaryL2(adapt_every=0), "adapt_every"),
        (lambda: BoundaryL2()(nn.Identity(), torch.zeros(1, 2), torch.zeros(1), torch.ones(1)), "boundary_l2"),
        (lambda: DeepFoolL2()(nn.Identity(), torch.zeros(1, 2), torch.zeros(1), torch.ones(1)), "deepfool_l2"),
        (lambda: CarliniWagnerL2()(nn.Identity(), torch.zeros(1, 2), torch.zeros(1), torch.ones(1)), "carlini"),
        (lambda: FastGradient(norm=Norm.L2, eps=[])(Linear(), torch.zeros(1, 1, 4, 4), torch.tensor([0])), "eps"),
    ],
)
def test_a_senseless_setting_names_its_key(build, key):
    with pytest.raises(ValueError, match=rf"`(attack\.)?{key}") as caught:
        build()
    assert "\n" not in str(caught.value)
