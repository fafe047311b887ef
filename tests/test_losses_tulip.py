"""TULIP's loss against its formulas written out an image at a time, and its two ways to differentiate twice."""

import copy
import inspect
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from lipcert.frozen.gradients import steepness
from lipcert.layers import DistanceConv2d
from lipcert.losses.tulip import Tulip, unit
from lipcert.models.linf_dist import LinfDist
from lipcert.models.resnet34 import ResNet34

SHAPE, CLASSES, PIXELS = (1, 4, 4), 3, 16


def smooth(normalised: bool = False) -> nn.Module:
    """In float64, steep, and with as many derivatives as one likes."""
    norm = [nn.BatchNorm2d(4)] if normalised else []
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *norm, nn.Tanh(), nn.Flatten(), nn.Linear(64, CLASSES))
    model[-1].weight.data *= 6
    return model.double()


def batch(count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Some pixels lie on the border of [0, 1]."""
    x = (torch.rand(count, *SHAPE, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    return x, torch.arange(count) % CLASSES


def slope(model: nn.Module, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropy of one image by itself, and its gradient by that image."""
    image = image.detach()[None].requires_grad_()
    value = -model(image).log_softmax(1)[0, label]
    (gradient,) = torch.autograd.grad(value, image, create_graph=True)
    return value, gradient[0]


def step(gradient: torch.Tensor, perturbation: str) -> torch.Tensor:
    if perturbation == "none":
        return torch.zeros_like(gradient)
    if perturbation == "fgsm":
        return gradient.sign() / math.sqrt(PIXELS)
    return gradient / gradient.square().sum().sqrt()


def by_hand(model: nn.Module, x: torch.Tensor, y: torch.Tensor, perturbation: str, eps: float, at: str):
    """A cross-entropy and a gradient norm an image."""
    losses, steep = [], []
    for image, label in zip(x, y, strict=True):
        clean = slope(model, image, label)
        there = slope(model, image + eps * step(clean[1].detach(), perturbation), label)
        losses.append(there[0])
        steep.append((there if at == "perturbed" else clean)[1].square().sum().sqrt())
    return torch.stack(losses), torch.stack(steep)


def fed(model: nn.Module) -> list[torch.Tensor]:
    images: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: images.append(inputs[0].detach().clone()))
    return images


def gradients(value: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """By all parameters, as one vector."""
    found = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("perturbation", ["l2", "fgsm"])
@pytest.mark.parametrize("penalty", ["none", "max"])
def test_images_are_trained_on_exactly_one_step_away_however_many_there_are(perturbation, penalty):
    model = smooth()
    for count in (1, 7):
        x, y = batch(count)
        due = [x[i] + 0.3 * step(slope(model, x[i], y[i])[1].detach(), perturbation) for i in range(count)]
        watched = copy.deepcopy(model)
        images = fed(watched)
        loss = Tulip(num_classes=CLASSES, perturbation=perturbation, eps=0.3, penalty=penalty)
        loss(watched, x, y)
        assert len(images) == 2 and torch.equal(images[0], x)
        torch.testing.assert_close(images[1], torch.stack(due), rtol=0, atol=1e-12)
        lengths = (images[1] - x).flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 0.3), rtol=0, atol=1e-12)
        assert images[1].min() < 0 and images[1].max() > 1  # nothing is clipped


class Squares(nn.Module):
    """Flat, exactly, where all pixels are 1/4."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(PIXELS, CLASSES)

    def forward(self, x):
        return self.head((x.flatten(1) - 0.25).square())


@pytest.mark.parametrize("perturbation", ["l2", "fgsm"])
@pytest.mark.parametrize("penalty_by", ["double_backprop", "finite_difference"])
def test_an_image_without_a_gradient_does_not_move_and_spoils_nothing(perturbation, penalty_by):
    x = torch.stack([torch.full(SHAPE, 0.25), torch.rand(SHAPE)])
    for images in (x, x[:1]):
        model = Squares()
        seen = fed(model)
        loss = Tulip(num_classes=CLASSES, perturbation=perturbation, eps=0.3, penalty_by=penalty_by)
        terms = loss(model, images, torch.tensor([0, 1])[: len(images)])
        moved = (seen[1] - images).flatten(1).abs().amax(1) > 0
        assert moved.tolist() == [False, True][: len(images)]
        terms["loss"].backward()
        assert terms["loss"].isfinite() and all(p.grad.isfinite().all() for p in model.parameters())
    assert terms["steepest"] <= 1e-9


@pytest.mark.parametrize("at", ["perturbed", "clean"])
@pytest.mark.parametrize("penalty", ["none", "max", "mean_square"])
@pytest.mark.parametrize("perturbation", ["none", "fgsm", "l2"])
def test_the_loss_is_its_formula(perturbation, penalty, at):
    model, (x, y) = smooth(), batch()
    losses, steep = by_hand(model, x, y, perturbation, 0.3, at)
    due = {
        "none": torch.zeros(()),
        "max": 0.7 * steep.max(),
        "mean_square": 0.7 / 2 * (steep * steep).sum() / len(x),
    }[penalty]
    loss = Tulip(
        num_classes=CLASSES, perturbation=perturbation, eps=0.3, penalty=penalty, penalty_weight=0.7, penalty_at=at
    )
    terms = loss(model, x, y)
    expected = losses.sum() / len(x) + due
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert terms["cross_entropy"].item() == pytest.approx(losses.mean().item(), rel=1e-12)
    assert ("penalty" in terms) == (penalty != "none")
    if penalty != "none":
        assert terms["penalty"].item() == pytest.approx(due.item(), rel=1e-12)
        assert terms["steepest"].item() == pytest.approx(steep.max().item(), rel=1e-12)
        assert terms["steepness"].item() == pytest.approx(steep.mean().item(), rel=1e-12)
    torch.testing.assert_close(gradients(terms["loss"], model), gradients(expected, model), rtol=1e-9, atol=1e-12)


def test_steepness_below_lip_0_costs_nothing_and_moves_nothing():
    model, (x, y) = smooth(), batch()
    steepest = by_hand(model, x, y, "l2", 0.1, "perturbed")[1].max().item()
    for lip_0, due in ((0.25 * steepest, 0.75 * steepest), (1.01 * steepest, 0.0)):
        penalty = Tulip(num_classes=CLASSES, penalty_weight=2.0, lip_0=lip_0)(model, x, y)["penalty"]
        assert penalty.item() == pytest.approx(2 * due, rel=1e-9)
        assert (gradients(penalty, model).norm() > 0) == (due > 0)


@pytest.mark.parametrize("penalty_by", ["double_backprop", "finite_difference"])
def test_the_largest_gradient_is_the_only_one_that_a_maximum_pulls_at(penalty_by):
    model, (x, y) = smooth(), batch()
    first = int(by_hand(model, x, y, "l2", 0.1, "perturbed")[1].argmax())
    loss = Tulip(num_classes=CLASSES, penalty_by=penalty_by)
    whole = gradients(loss(model, x, y)["penalty"], model)
    for i in range(len(x)):
        alone = gradients(loss(model, x[i : i + 1], y[i : i + 1])["penalty"], model)
        assert torch.allclose(whole, alone, rtol=1e-9, atol=1e-12) == (i == first)


@pytest.mark.parametrize(("central", "order"), [(False, 1), (True, 2)])
def test_finite_differences_come_up_to_double_backpropagation_image_by_image(central, order):
    """In the norms, and in their slopes by the parameters; halving h divides the error by 2 and by 4."""
    model, (x, y) = smooth(), batch(5)
    exact = Tulip(num_classes=CLASSES).losses(model, x, y)[1]
    slopes = torch.stack([gradients(s, model) for s in exact])
    errors = []
    for h in (2e-2, 1e-2):
        loss = Tulip(num_classes=CLASSES, penalty_by="finite_difference", h=h, central=central)
        found = loss.losses(model, x, y)[1]
        errors.append((found - exact, torch.stack([gradients(s, model) for s in found]) - slopes))
    for due, (coarse, fine) in zip((exact, slopes), zip(*errors, strict=True), strict=True):
        ratio = (coarse.norm() / fine.norm()).item()
        assert ratio == pytest.approx(2**order, rel=0.1)
        assert fine.norm() < (0.05 if order == 1 else 0.002) * due.norm()


def test_under_batch_normalisation_the_two_agree_in_their_sum_over_the_batch():
    """Whose images are moved all at once."""
    model, (x, y) = smooth(normalised=True).train(), batch()
    exact = Tulip(num_classes=CLASSES)
    near = Tulip(num_classes=CLASSES, penalty_by="finite_difference", h=1e-4, central=True)
    sums = [loss(model, x, y)["steepness"] * len(x) for loss in (exact, near)]
    assert sums[1].item() == pytest.approx(sums[0].item(), rel=1e-6)
    due, found = (gradients(s, model) for s in sums)
    assert (found - due).norm() < 1e-6 * due.norm()
    one, other = (loss.losses(model, x, y)[1] for loss in (exact, near))
    assert (one - other).abs().max() > 1e-3  # but not image by image, as what couples them has it


def test_under_batch_normalisation_an_image_answers_for_what_it_does_to_all():
    model, (x, y) = smooth(normalised=True).train(), batch()
    x = x.requires_grad_()
    (due,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    found = Tulip(num_classes=CLASSES, perturbation="none").losses(model, x.detach(), y)[1]
    torch.testing.assert_close(found, due.flatten(1).norm(dim=1))


@pytest.mark.parametrize("perturbation", ["l2", "fgsm"])
def test_to_first_order_a_step_is_a_penalty_on_the_gradients_dual_norm(perturbation):
    model, (x, y) = smooth(), batch()
    clean, found = zip(*(slope(model, *image) for image in zip(x, y, strict=True)), strict=True)
    clean, found = torch.stack(clean).mean().item(), torch.stack(found).flatten(1).detach()
    dual = found.norm(dim=1) if perturbation == "l2" else found.abs().sum(1) / math.sqrt(PIXELS)
    errors = []
    for eps in (2e-3, 1e-3):
        loss = Tulip(num_classes=CLASSES, perturbation=perturbation, eps=eps, penalty="none")
        added = loss(model, x, y)["loss"].item() - clean
        errors.append(added - eps * dual.mean().item())
    assert abs(errors[1]) < 0.01 * added and errors[0] / errors[1] == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("penalty_by", ["double_backprop", "finite_difference"])
@pytest.mark.parametrize(
    "options",
    [
        {"penalty": "max", "penalty_weight": 0.1},
        {"penalty": "mean_square", "penalty_weight": 0.2},
        {"perturbation": "l2", "eps": 0.3, "penalty": "none"},
    ],
    ids=["max", "mean_square", "perturbation"],
)
def test_training_by_it_leaves_a_flatter_network_that_answers_as_well(options, penalty_by):
    """A row of the image, brighter than the others, is its class; five labels are wrong."""
    classes = torch.arange(48) % CLASSES
    x = torch.rand(48, *SHAPE, dtype=torch.float64) / 2
    x[torch.arange(48), 0, classes] += 0.5
    told = torch.where(torch.arange(48) < 5, (classes + 1) % CLASSES, classes)

    def trained(**options):
        torch.manual_seed(1)
        model = smooth()
        loss = Tulip(num_classes=CLASSES, **{"perturbation": "none", "penalty_by": penalty_by} | options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(40):
            optimizer.zero_grad()
            loss(model, x, told)["loss"].backward()
            optimizer.step()
        assert (model(x).argmax(1) == classes).double().mean() > 0.9
        return steepness(model, x, classes)

    plain, ours = trained(penalty="none"), trained(**options)
    assert ours.loss_gradient.max() < 0.5 * plain.loss_gradient.max()
    assert ours.loss_gradient.mean() < 0.9 * plain.loss_gradient.mean()


def state(model: nn.Module):
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    return tensors, [m.training for m in model.modules()], [p.grad for p in model.parameters()]


def test_a_network_with_first_derivatives_only_is_told_the_way_out():
    model = LinfDist(input_shape=SHAPE, num_classes=CLASSES, depth=2, width=8)
    before = state(model)
    with pytest.raises(
        ValueError, match="`loss.penalty_by=double_backprop`.* LinfDist has none: take finite_diff"
    ) as told:
        Tulip(num_classes=CLASSES).prepare(model, SHAPE)
    assert "\n" not in str(told.value)
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)
    Tulip(num_classes=CLASSES, penalty="none").prepare(model, SHAPE)
    loss = Tulip(num_classes=CLASSES, penalty_by="finite_difference", penalty_weight=1.0)
    loss.prepare(model, SHAPE)
    x, y = batch()
    penalty = loss(model, x.float(), y)["penalty"]
    assert penalty > 0 and gradients(penalty, model).isfinite().all() and gradients(penalty, model).norm() > 0


def test_a_distance_behind_a_convolution_is_refused_too():
    """Its backward pass has no derivative: without the refusal, the penalty's would be wrong in silence."""
    layers = [nn.Conv2d(1, 2, 3, padding=1), DistanceConv2d(2, 3, 3, padding=1, p=8.0), nn.Flatten(), nn.Linear(48, 3)]
    with pytest.raises(ValueError, match="needs second derivatives, and Sequential has none"):
        Tulip(num_classes=CLASSES).prepare(nn.Sequential(*layers), SHAPE)


def test_other_errors_of_a_model_are_its_own():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Tulip(num_classes=CLASSES).prepare(nn.Sequential(nn.Flatten(), nn.Linear(PIXELS + 1, CLASSES)), SHAPE)


@pytest.mark.parametrize("training", [True, False])
def test_preparing_leaves_no_trace(training):
    model = ResNet34(input_shape=(1, 8, 8), num_classes=CLASSES, depth=10, width=2, tanh=True).train(training)
    model.features[1].eval()  # a layer that is to stay as it is
    gradients = [torch.ones_like(p) for p in model.parameters()]
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        p.grad = gradient
    before, random = state(model), torch.get_rng_state()
    Tulip(num_classes=CLASSES).prepare(model, (1, 8, 8))
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training is training and not model.features[1].training
    assert all(gradient.eq(1).all() for gradient in gradients)


@pytest.mark.parametrize("central", [False, True])
def test_dropout_is_no_part_of_a_finite_difference(central):
    """Each look at the network has its own; but between two looks of one difference only the image moves."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, CLASSES))
    x, y = batch()
    loss = Tulip(num_classes=CLASSES, penalty_by="finite_difference", central=central)
    steepest = [loss(model, x.float(), y)["steepest"].item() for _ in range(10)]
    bound = max(Tulip(num_classes=CLASSES)(model, x.float(), y)["steepest"].item() for _ in range(30))
    assert max(steepest) < 2 * bound and len(set(steepest)) == 10


@pytest.mark.parametrize("size", [1e-20, 1e-38, 1e-42])
def test_a_step_has_its_length_however_flat_the_loss(size):
    gradient = torch.randn(3, *SHAPE) * size
    gradient[1] = 0
    assert unit(gradient).flatten(1).norm(dim=1).tolist() == pytest.approx([1, 0, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        *[(key, {key: v}) for key in ("eps", "penalty_weight", "lip_0") for v in (-0.1, math.nan, math.inf)],
        *[("loss.h", {"h": v}) for v in (0.0, -1e-2, math.nan, math.inf)],
        ("loss.lip_0", {"lip_0": 0.5, "penalty": "mean_square"}),
        ("loss.lip_0", {"lip_0": 0.5, "penalty": "none"}),
    ],
)
def test_impossible_values_are_refused(key, values):
    with pytest.raises(ValueError, match=f"`{key}`|`loss.{key}`") as told:
        Tulip(num_classes=CLASSES, **values)
    assert "\n" not in str(told.value) and str(values.get("h", values.get(key, 0.5))) in str(told.value)


def test_the_configuration_offers_every_option_at_its_default():
    written = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[1] / "conf" / "loss" / "tulip.yaml"))
    assert written.pop("_target_") == "lipcert.losses.tulip.Tulip"
    signature = inspect.signature(Tulip).parameters
    assert written == {name: p.default for name, p in signature.items() if name != "num_classes"}


def test_under_autocast_double_backpropagation_runs_and_finite_differences_stay_exact():
    model, (x, y) = smooth().float(), batch()
    x = x.float()
    found = {}
    for by in ("double_backprop", "finite_difference"):
        loss = Tulip(num_classes=CLASSES, penalty_by=by, h=1e-2, central=True)
        plain = loss(model, x, y)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = loss(model, x, y)
        assert terms["loss"].dtype == torch.float32
        assert terms["steepest"].item() == pytest.approx(plain["steepest"].item(), rel=0.05)
        assert gradients(terms["loss"], model).isfinite().all() and gradients(terms["penalty"], model).norm() > 0
        found[by] = plain, terms
    exact, near = (found[by][0] for by in found)
    rough, still = (found[by][1] for by in found)
    assert rough["loss"] != exact["loss"]  # bfloat16 it was
    assert all(torch.equal(still[key], near[key]) for key in near)
    assert still["steepness"].item() == pytest.approx(exact["steepness"].item(), rel=2e-3)
