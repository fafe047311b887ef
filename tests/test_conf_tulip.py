"""The rows of the TULIP paper keep its recipe, whatever the defaults become; its networks compute what they should."""

import json
from collections import Counter
from itertools import product

import pytest
import torch
from configurations import CONF, calls, changes, composed, kind, names
from torch import nn
from torch.nn import functional as F

from lipcert.certificates.nominal import Nominal
from lipcert.datasets.augmentation import Cutout, HorizontalFlip, RandomCrop
from lipcert.layers import ScaledTanh
from lipcert.losses.tulip import Tulip
from lipcert.models.allcnn import AllCNN
from lipcert.models.resnet34 import ResNet34
from lipcert.models.tulip_resnext import TulipResNeXt
from lipcert.tasks.settings import build

ROOT = CONF / "experiment" / "tulip"
SHARED = [name for name in names(ROOT) if name.startswith("_")]
OVER = "released"  # no row, but what goes over one
ROWS = [name for name in names(ROOT) if not name.startswith("_") and name != OVER]

# Of Tables 3 and 4, without and with l2 adversarial training: median distance, error at 0 and at l2 0.1, steepest loss
# gradient, largest Jacobian. Of Tables 5 and 6 the same without medians, which are lost.
VARIANTS = ["", "_penalty", "_tanh", "_tanh_penalty"]
PUBLISHED = {
    "table3_allcnn": """
        0.13 6.01 38.11 0.31 16.75   0.29 5.90 17.09 1.03 6.38
        0.17 6.26 29.27 0.18 9.80    0.29 5.84 16.86 0.84 6.26
        0.19 5.41 32.61 0.40 13.64   0.38 5.10 16.19 1.44 9.72
        0.21 5.45 25.04 0.16 7.15    0.35 5.27 15.00 1.04 8.20""",
    "table3_resnet34": """
        0.09 6.00 56.00 3.17 72.14   0.25 5.57 18.19 2.51 18.62
        0.17 5.43 27.08 0.81 20.43   0.28 5.65 16.74 1.88 12.40
        0.20 5.54 34.44 2.28 41.76   0.46 5.52 17.45 1.97 15.66
        0.21 6.14 28.66 0.38 8.45    0.40 5.81 15.84 1.33 9.23""",
    "table3_resnext": """
        0.09 4.07 53.98 3.33 85.85   0.30 3.58 13.54 3.94 33.19
        0.21 4.28 19.13 0.79 20.91   0.31 4.13 12.52 2.30 13.65
        0.34 4.05 23.97 2.30 50.70   0.61 3.80 12.71 0.76 18.91
        0.33 4.18 19.64 0.55 8.23    0.56 4.08 12.12 1.62 9.54""",
    "table5_allcnn": """
        25.25 63.58 4.18 27.57   25.64 53.85 3.21 20.92
        25.89 56.45 3.08 20.95   25.60 50.71 2.62 16.30
        26.06 64.77 3.41 10.69   26.27 54.81 3.65 23.32
        26.23 56.26 2.35 6.42    26.05 53.24 3.04 20.70""",
    "table5_resnet34": """
        27.42 90.41 17.78 90.83   28.21 66.12 5.13 31.15
        28.18 70.94 5.41 27.72    28.21 66.12 3.55 19.19
        40.72 81.19 11.36 31.66   29.19 64.51 4.48 27.99
        38.61 68.34 3.66 7.8      28.01 58.40 3.44 16.88""",
    "table5_resnext": """
        21.24 74.18 3.54 43.28   21.57 53.77 7.78 44.9
        21.97 47.64 0.65 23.27   21.73 46.79 3.26 27.67
        21.05 52.28 14.03 53.43  21.01 50.33 7.90 41.73
        21.05 52.28 4.74 10.09   21.47 42.58 3.75 21.03""",
}
TABLE1 = {  # median distance, error at l2 0.1, steepest loss gradient, largest Jacobian
    "table1_cifar10_baseline": "0.09 53.98 3.33 85.85",
    "table1_cifar10_fgsm": "0.18 24.63 7.04 48.29",
    "table1_cifar10_l2": "0.30 13.54 3.94 33.19",
    "table1_cifar10_tulip": "0.56 12.12 1.62 9.54",
    "table1_cifar100_baseline": "0.05 74.18 3.54 43.28",
    "table1_cifar100_fgsm": "lost 56.34 7.50 56.62",
    "table1_cifar100_l2": "lost 53.77 7.78 44.9",
    "table1_cifar100_tulip": "0.136 42.58 3.75 21.03",
}
DOUBTFUL = {  # what the paper prints, but can't be held to
    "table5_resnet34_penalty": "No target: the Jacobian, erroneous by the authors' footnote 3.",
    "table5_resnet34_l2_penalty": "No targets (dup?): both errors are those of table5_resnet34_l2.",
    "table5_resnext_tanh": "No targets (dup?): both errors are those of table5_resnext_tanh_penalty.",
    "table5_resnext_tanh_penalty": "No targets (dup?): both errors are those of table5_resnext_tanh.",
}
SAME = {"baseline": "", "l2": "_l2", "tulip": "_l2_tanh_penalty"}  # rows of Table 1 in Tables 3 and 5
NETWORKS = {"allcnn": AllCNN, "resnet34": ResNet34, "resnext": TulipResNeXt}


def row(name: str) -> dict:
    return composed(f"experiment=tulip/{name}")


def parts(name: str) -> tuple[str, str, set[str]]:
    """Data set, network, and what the row has of l2, fgsm, tanh and penalty."""
    table, network, *rest = name.split("_")
    if table == "table1":
        has = {"baseline": set(), "tulip": {"l2", "tanh", "penalty"}}.get(rest[0], set(rest))
        return network, "resnext", has
    return {"table3": "cifar10", "table5": "cifar100"}[table], network, set(rest)


def published() -> dict[str, list[str]]:
    found = {name: numbers.split() for name, numbers in TABLE1.items()}
    for start, block in PUBLISHED.items():
        for variant, line in zip(VARIANTS, block.split("\n")[1:], strict=True):
            numbers = line.split()
            half = len(numbers) // 2
            found |= {f"{start}{variant}": numbers[:half], f"{start}_l2{variant}": numbers[half:]}
    return found


def comment(name: str) -> str:
    """What a row says of itself: its table, network and variant, and all that was published of it."""
    (dataset, network, has), numbers = parts(name), published()[name]
    branches = {"cifar10": 2, "cifar100": 4}[dataset]
    start = {"table1": "Table 1", "table3": "Tables 3 and 4", "table5": "Tables 5 and 6"}[name[:6]]
    data = dataset.upper().replace("R", "R-")
    title = {"allcnn": "AllCNN", "resnet34": "ResNet-34", "resnext": f"ResNeXt-34 ({branches}x32)"}[network]
    words = {"l2": "l2 adversarial training", "tanh": "tanh", "penalty": "penalty"}
    what = ", ".join(word for key, word in words.items() if key in has) or "baseline"
    *first, tenth, gradient, jacobian = numbers
    if name.startswith("table1"):
        of_table_1 = {"fgsm": "FGSM adversarial training (J1)", "l2": "l2 adversarial training (J2)"}
        what = (of_table_1 | {"baseline": "baseline", "tulip": "TULIP and tanh"})[name.split("_")[2]]
        place = " (in the text)" if name == "table1_cifar100_baseline" else ""
        error = f"median distance {first[0]}{place}, error"
    else:
        error = f"error {first[-1]} at 0 and"
        error = f"median distance {first[0]}, {error}" if len(first) == 2 else error
    rest = f"{error} {tenth} at l2 0.1; steepest loss gradient {gradient}, Jacobian {jacobian}."
    note = f" {DOUBTFUL[name]}" if name in DOUBTFUL else ""
    return f"{start}, {data}, {title}, {what}. Published: {rest}{note}"


def test_no_row_is_missing():
    tables = product(("table3", "table5"), NETWORKS, ("", "_l2"), ("", "_tanh"), ("", "_penalty"))
    due = {f"{table}_{''.join(rest)}" for table, *rest in tables} | set(TABLE1)
    assert due == set(ROWS) == set(published())
    assert Counter(name.partition("_")[0] for name in ROWS) == {"table1": 8, "table3": 24, "table5": 24}
    used = "\n".join(path.read_text() for path in ROOT.glob("*.yaml"))
    assert [name for name in SHARED if f"/{name}\n" not in used] == []


@pytest.mark.parametrize("name", [*SHARED, *ROWS])
def test_a_row_is_a_short_delta_that_says_what_it_is(name):
    lines = (ROOT / f"{name}.yaml").read_text().splitlines()
    said = " ".join(line.removeprefix("# ") for line in lines[1:] if line.startswith("# "))
    assert len(lines) <= (25 if name in SHARED else 15)
    assert lines[0] == "# @package _global_"  # Hydra reads it from nowhere but the first line
    assert max(map(len, lines)) <= 120
    if name in SHARED:
        assert lines[1].startswith("# Shared: ")
    else:
        assert said == comment(name)


def test_rows_that_two_tables_share_are_the_same_and_print_the_same():
    for name in TABLE1:
        dataset, variant = name.split("_")[1:]
        if variant in SAME:
            other = {"cifar10": "table3", "cifar100": "table5"}[dataset] + f"_resnext{SAME[variant]}"
            assert changes(row(other), row(name)) == {}
            assert published()[other][-3:] == published()[name][-3:]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_differs_from_its_baseline_in_what_its_name_says(name):
    dataset, network, has = parts(name)
    table = {"cifar10": "table3", "cifar100": "table5"}[dataset]
    due = {"tanh": {"model.tanh": True}, "penalty": {"loss.penalty": "max"}}
    due |= {attack: {"loss.perturbation": attack} for attack in ("l2", "fgsm")}
    expected = {key: value for part in has for key, value in due[part].items()}
    assert changes(row(f"{table}_{network}"), row(name)) == expected


@pytest.mark.parametrize("network", NETWORKS)
def test_the_two_data_sets_differ_in_what_the_paper_says(network):
    changed = changes(row(f"table3_{network}"), row(f"table5_{network}"))
    assert {key for key in changed if not key.startswith("dataset.")} - {"model.branches"} == {
        "optimizer.weight_decay",
        "schedule.epochs",
        "schedule.lr.epochs_at",
        "schedule.lr.factor",
    }
    assert changed.get("model.branches") == (4 if network == "resnext" else None)


def convolutions(network: str, branches: int, classes: int) -> list[tuple[int, ...]]:
    """Inputs, outputs, kernel, stride, padding and groups of a network's convolutions, and of its linear layer."""
    if network == "allcnn":
        found = [(3, 96, 3, 1, 1, 1), (96, 96, 3, 1, 1, 1), (96, 96, 3, 2, 1, 1), (96, 192, 3, 1, 1, 1)]
        found += [(192, 192, 3, 1, 1, 1), (192, 192, 3, 2, 1, 1), *[(192, 192, 3, 1, 1, 1)] * 2]
        return [*found, (192, classes, 1, 1, 0, 1)]
    width = {"resnet34": 16, "resnext": 32}[network]
    found = [(3, width, 3, 1, 1, 1)]
    for channels in (width, 2 * width, 4 * width):
        found += [(channels // 2, channels, 1, 1, 0, 1)] if channels > width else []
        wide = channels * branches
        found += [(channels, wide, 3, 1, 1, 1), (wide, wide, 3, 1, 1, branches)] * 5
    return [*found, (4 * width, classes)]


PARAMETERS = {  # trainable, without the tanh's t
    ("allcnn", "cifar10"): 1_664_650,
    ("allcnn", "cifar100"): 1_682_020,
    ("resnet34", "cifar10"): 488_714,
    ("resnet34", "cifar100"): 494_564,
    ("resnext", "cifar10"): 3_887_818,
    ("resnext", "cifar100"): 7_774_628,
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_papers_network(name):
    """As large as it was published: without its memory, on the meta device."""
    dataset, network, has = parts(name)
    classes, branches = {"cifar10": (10, 2), "cifar100": (100, 4)}[dataset]
    with torch.device("meta"):
        model = build(row(name)["model"], input_shape=(3, 32, 32), num_classes=classes)
    assert type(model) is NETWORKS[network]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == PARAMETERS[network, dataset] + ("tanh" in has)

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    found = [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0], m.groups)
        if isinstance(m, nn.Conv2d)
        else (m.in_features, m.out_features)
        for m in layers
    ]
    assert found == convolutions(network, branches if network == "resnext" else 1, classes)
    convs = [m for m in layers if isinstance(m, nn.Conv2d)]
    assert all(m.bias is None for m in convs)
    normalised = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.num_features for m in normalised] == [m.out_channels for m in convs]  # one behind each
    assert all((m.eps, m.momentum, m.track_running_stats) == (1e-5, 0.1, True) for m in normalised)
    assert all((m.weight.requires_grad, m.bias.requires_grad) == (False, True) for m in normalised)
    pools = [(m.kernel_size, m.stride) for m in model.modules() if isinstance(m, nn.AvgPool2d)]
    assert pools == [(2, 2)] * (0 if network == "allcnn" else 2)
    assert not any(isinstance(m, nn.Dropout) for m in model.modules())
    last = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | ScaledTanh)]
    assert [type(m) for m in last] == ([nn.BatchNorm1d, ScaledTanh] if "tanh" in has else [])
    assert all((m.num_features, m.affine) == (classes, False) for m in last[:1])


@pytest.mark.parametrize("tanh", ["", "_tanh"])
@pytest.mark.parametrize("start", PUBLISHED)
def test_a_network_computes_what_the_specification_says(start, tanh):
    """The forward pass, written out, on the same weights of a narrow network."""
    name = f"{start}{tanh}"
    torch.manual_seed(0)
    config, (_, network, has) = row(name)["model"], parts(name)
    narrow = {"width": 4} | ({} if network == "allcnn" else {"depth": 16})
    model = build({**config, **narrow}, input_shape=(3, 32, 32), num_classes=10).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert module.weight is None or (module.weight == 1).all()
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 3)
    convs = iter([m for m in model.modules() if isinstance(m, nn.Conv2d)])
    norms = iter([m for m in model.modules() if isinstance(m, nn.BatchNorm2d)])

    def conv(x, stride=1, groups=1, relu=True):
        """Convolution, normalisation, bias, ReLU."""
        layer, norm = next(convs), next(norms)
        y = F.conv2d(x, layer.weight, None, stride, layer.weight.shape[-1] // 2, 1, groups)
        mean, std = norm.running_mean.view(-1, 1, 1), (norm.running_var + 1e-5).sqrt().view(-1, 1, 1)
        y = (y - mean) / std + norm.bias.view(-1, 1, 1)
        return F.relu(y) if relu else y

    image = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    x = image
    if network == "allcnn":
        for stride in (1, 1, 2, 1, 1, 2, 1, 1):
            x = conv(x, stride)
        assert x.shape == (4, 8, 8, 8)
        z = conv(x, relu=False).mean((2, 3))
    else:
        branches = {"resnet34": 1, "resnext": config.get("branches")}[network]
        x = conv(x)
        for stage in range(3):
            if stage:
                x = F.avg_pool2d(conv(x), 2)
            for _ in range(2):
                h = conv(conv(x), groups=branches, relu=False)
                x = F.relu(sum(h.chunk(branches, 1)) / branches + x)
        assert x.shape == (4, 16, 8, 8)
        (head,) = (m for m in model.modules() if isinstance(m, nn.Linear))
        z = F.linear(x.mean((2, 3)), head.weight, head.bias)
    assert next(convs, None) is next(norms, None) is None
    if "tanh" in has:
        (norm,) = (m for m in model.modules() if isinstance(m, nn.BatchNorm1d))
        (squash,) = (m for m in model.modules() if isinstance(m, ScaledTanh))
        assert float(squash.t.detach()) == pytest.approx(1)
        squash.raw.data += 0.4
        z = (z - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
        t = (1 + squash.raw.exp()).log()
        z = t * (z / t).tanh()
    torch.testing.assert_close(model(image), z)


@pytest.mark.parametrize("name", ["table3_allcnn", "table3_resnet34", "table3_resnext"])
def test_weights_and_biases_start_uniform_within_one_over_the_root_of_the_fan_in(name):
    torch.manual_seed(0)
    model = build(row(name)["model"], input_shape=(3, 32, 32), num_classes=10)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    normalised = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    (*_, linear) = model.modules()
    pairs = [(layer.weight, norm.bias) for layer, norm in zip(layers, normalised, strict=True)]
    for weight, bias in [*pairs, *([(linear.weight, linear.bias)] if isinstance(linear, nn.Linear) else [])]:
        bound = weight[0].numel() ** -0.5
        for values in (weight.detach(), bias.detach()):
            assert 0.6 * bound < float(values.abs().max()) <= bound * (1 + 1e-6)
            assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=3 / values.numel() ** 0.5)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_papers_loss_optimizer_and_schedule(name):
    config, (dataset, _, has) = row(name), parts(name)
    loss = build(config["loss"], num_classes=10)
    assert type(loss) is Tulip
    assert (loss.perturbation, loss.eps) == (next(iter(has & {"l2", "fgsm"}), "none"), 0.1)
    assert (loss.penalty, loss.penalty_weight, loss.lip_0) == ("max" if "penalty" in has else "none", 0.1, 0.0)
    assert (loss.penalty_at, loss.twice) == ("perturbed", True)
    optimizer = build(config["optimizer"])([nn.Parameter(torch.zeros(1))])
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.SGD
    assert (group["lr"], group["momentum"], group["nesterov"], group["dampening"]) == (0.1, 0.9, False, 0)
    assert group["weight_decay"] == {"cifar10": 5e-4, "cifar100": 1e-4}[dataset]
    schedule = build(config["schedule"])
    assert (schedule.batch_size, schedule.early_stopping, schedule.ramps.keys()) == (128, None, {"lr"})
    schedule.apply(0.0, model=nn.Module(), groups=optimizer.param_groups)
    rates = {}
    for epoch in (0, 59, 59.999, 60, 119, 120, 149, 150, 179, 180, 199, 224, 225, 299):
        schedule.apply(float(epoch), model=nn.Module(), groups=optimizer.param_groups)
        rates[epoch] = group["lr"]
    if dataset == "cifar10":
        assert schedule.epochs == 200
        due = {0: 0.1, 59: 0.1, 59.999: 0.1, 60: 0.02, 119: 0.02, 120: 0.004, 179: 0.004, 180: 0.0008, 199: 0.0008}
    else:
        assert schedule.epochs == 300
        due = {0: 0.1, 60: 0.1, 149: 0.1, 150: 0.01, 180: 0.01, 224: 0.01, 225: 0.001, 299: 0.001}
    assert {epoch: rates[epoch] for epoch in due} == pytest.approx(due)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_papers_images_radii_and_attack(name):
    config, (name_of_set, _, _) = row(name), parts(name)
    dataset = config["dataset"]
    assert kind(dataset) == name_of_set
    assert (dataset["val_size"], dataset["subset"], dataset["label_noise"], dataset["crop"]) == (0, None, 0.0, None)
    side = {"cifar10": 16, "cifar100": 8}[name_of_set]
    due = [RandomCrop(padding=4, fill=128), HorizontalFlip(), Cutout(size=side, fill="mean")]
    assert [build(augmentation) for augmentation in dataset["augment"]] == due
    assert config["eps"] == [0.1]
    certificate = build(config["certificate"])
    assert type(certificate) is Nominal and certificate.by == "loss"
    attack = build(config["attack"])
    assert (type(attack).__name__, attack.name, attack.norm) == ("SmallestDistance", "smallest_pgd", "l2")
    assert (attack.eps, attack.images) == (None, None)  # all test images
    assert (attack.start, attack.growth, attack.tries, attack.bisections) == (0.3, 1.5, 20, 20)
    inner = attack.inner
    assert (type(inner).__name__, inner.norm, inner.steps) == ("ProjectedGradient", "l2", 10)
    assert (inner.random_start, inner.loss) == (False, "ce")
    assert inner.rel_stepsize == pytest.approx(1 / 6)


def test_the_reproduction_script_trains_every_row_once_and_nothing_else(tmp_path):
    """It is run with a `lipcert` that only writes down what it was asked for. Rows of two tables are trained once."""
    told = calls("reproduce_tulip.sh", tmp_path)
    assert {task for task, *_ in told} == {"separation", "train", "attack", "compare"}
    trained: dict[str, list[str]] = {}
    separated, attacks, compared = [], [], []
    for task, keys, others in told:
        if task == "train" and "released" in keys["output_dir"]:
            chosen = keys.pop("experiment").strip("[]").split("],[")
            assert chosen == [f"tulip/table1_cifar10_{name},tulip/{OVER}" for name in ("l2", "tulip")]
            assert others == ["-m"] and keys.keys() == {"data_dir", "output_dir"}
        elif task == "train":
            trained[keys["output_dir"]] = keys.pop("experiment").split(",")
            assert others == ["-m"] and keys.keys() == {"data_dir", "output_dir"}
        elif task == "attack":
            assert not others and keys.keys() == {"run", "attack", "device"}
            folder, _, number = keys["run"].rpartition("/")
            assert trained[folder][int(number)] == "tulip/table1_cifar10_baseline"
            attacks.append(keys["attack"])
        elif task == "separation":
            assert not others and keys.keys() == {"dataset", "data_dir", "device", "output_dir"}
            separated.append(keys["dataset"])
        else:
            assert not keys and others
            compared.append([run for path in others for run in jobs(trained, path)])
    assert separated == ["mnist", "fashion_mnist", "cifar10", "cifar100"]
    assert attacks == ["smallest_fgsm", "smallest_gradient", "smallest_ifgsm", "deepfool_l2", "boundary_l2"]
    assert all((CONF / "attack" / f"{name}.yaml").exists() for name in attacks)
    assert len({name for runs in compared for name in runs}) == 50
    for dataset, table in (("cifar10", "table3"), ("cifar100", "table5")):
        table1 = [f"tulip/table1_{dataset}_{name}" for name in ("baseline", "fgsm", "l2", "tulip")]
        assert table1 in compared  # in the paper's order
        (whole,) = (runs for runs in compared if f"tulip/{table}_allcnn" in runs)
        assert len(whole) == 24 and table1[1] not in whole

    def recipes(rows: list[str]) -> Counter:
        return Counter(json.dumps(composed(f"experiment={name}"), sort_keys=True) for name in rows)

    everything = [name for rows in trained.values() for name in rows]
    assert recipes(everything) == Counter(set(recipes([f"tulip/{name}" for name in ROWS])))
    assert len(everything) == 50


def jobs(trained: dict[str, list[str]], path: str) -> list[str]:
    """The rows that a directory holds: those of a sweep, or one job of it."""
    folder, _, number = path.rpartition("/")
    return trained[path] if path in trained else [trained[folder][int(number)]]


def test_a_row_can_be_had_as_the_authors_code_was_released():
    name = "table1_cifar10_tulip"
    config = composed(f"experiment=[tulip/{name},tulip/{OVER}]")
    *_, cutout = config["dataset"].pop("augment")
    assert (cutout["size"], cutout["fill"]) == (16, 0)
    before = row(name)
    before["dataset"].pop("augment")
    assert changes(before, config) == {
        "loss.eps": 0.01,
        "loss.penalty_weight": 0.1 / 128,
        "optimizer.weight_decay": 1e-3,
    }
