"""The published architectures: as large as printed, built layer by layer as the papers say, computing what they say."""

import pytest
import torch
from configurations import CLASSES, built, composed, kind, shape
from torch import nn
from torch.nn import functional as F

from lipcert.configuration import build
from lipcert.layers import ConvexSum, DistanceConv2d, DistanceLinear, ParsevalConv2d, ScaledTanh
from lipcert.models.allcnn import AllCNN
from lipcert.models.resnet34 import ResNet34
from lipcert.models.tulip_resnext import TulipResNeXt
from lipcert.reporting import published

WIDE = {  # what LMT's Table 1 and section 6 train on SVHN
    "plain": ("model=lmt_resnet",),
    "average-pooled shortcuts": ("model=lmt_resnet", "model.average_shortcut=true"),
    "parseval": ("model=parseval_resnet",),
}
NETWORKS = {"allcnn": AllCNN, "resnet34": ResNet34, "resnext": TulipResNeXt}
PARAMETERS = {  # trainable, without the tanh's t
    ("allcnn", "cifar10"): 1_664_650,
    ("allcnn", "cifar100"): 1_682_020,
    ("resnet34", "cifar10"): 488_714,
    ("resnet34", "cifar100"): 494_564,
    ("resnext", "cifar10"): 3_887_818,
    ("resnext", "cifar100"): 7_774_628,
}


def of_tulip(dataset: str, network: str, tanh: bool) -> dict:
    """The configuration of a network of TULIP's Tables 3 to 6."""
    rows = published.load("tulip/table3" if dataset == "cifar10" else "tulip/table5").rows
    return composed(*rows[f"{network}_{'tanh' if tanh else 'baseline'}"].arguments())["model"]


def distance_layers(model: torch.nn.Module) -> list:
    return [layer for layer in model.modules() if isinstance(layer, DistanceLinear | DistanceConv2d)]


def starts(layer, identity: bool) -> torch.Tensor:
    """Where a distance layer has its −10 at the start: nowhere if it narrows, or is the last, which has a bias."""
    expected = torch.zeros(layer.weight.shape, dtype=torch.bool)
    outputs, inputs = layer.weight.shape[:2]
    if identity and inputs <= outputs and layer.bias is None:
        for i in range(outputs):
            expected[i, i % inputs][(1, 1) if expected.dim() == 4 else ()] = True
    return expected


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize(("name", "count"), [("linf_dist", 6), ("linf_dist_mlp", 5), ("linf_dist_conv", 6)])
def test_distance_nets_have_the_published_layers_and_start_as_published(name, count, identity):
    config = composed(f"model={name}", "dataset=cifar10", f"model.identity={str(identity).lower()}")
    layers = distance_layers(built(config)[0])
    assert len(layers) == count
    assert all(torch.equal(layer.weight == -10.0, starts(layer, identity)) for layer in layers)
    small = distance_layers(built(composed("model=linf_dist", "dataset=mnist"))[0])
    assert len(small) == 5  # images of 28x28 take one layer less


SIZES = [
    (table, name)
    for table in ("linf_dist/table1", "linf_dist/table2", "linf_dist/table9")
    for name, row in published.load(table).rows.items()
    if row.trained
]


@pytest.mark.parametrize(("table", "name"), SIZES)
def test_a_network_is_as_large_as_the_paper_prints(table, name):
    """What an image costs at full width, a weight once wherever it is used: without its memory, on the meta device."""
    row = published.load(table).rows[name]
    config = composed(*row.arguments())
    counts = []

    def count(layer, _, output):
        counts.append(output[0].numel() * layer.weight[0].numel())

    with torch.device("meta"), torch.no_grad():
        classes = CLASSES.get(kind(config["dataset"]), 10)
        model = build(config["model"], input_shape=shape(config), num_classes=classes).eval()
        for layer in model.modules():
            if hasattr(layer, "weight"):
                layer.register_forward_hook(count)
        assert model(torch.zeros(1, *shape(config))).shape == (1, classes)
    assert float(f"{sum(counts) / 1e6:.3g}") == row.published["flops"]


def wide_resnet(average: bool) -> list[tuple[int, int, int, int, int]]:
    """WRN-16-4's convolutions: inputs, outputs, kernel, stride, padding."""
    found, inputs = [(3, 16, 3, 1, 1)], 16
    for outputs, stride in ((64, 1), (128, 2), (256, 2)):
        found += [(inputs, outputs, 3, stride, 1), (outputs, outputs, 3, 1, 1)]
        found += [(inputs, outputs, 1, 1 if average else stride, 0)]
        found += [(outputs, outputs, 3, 1, 1)] * 2
        inputs = outputs
    return found


def test_the_convolutional_network_of_lmt_is_the_published_one():
    model = build(composed("model=lmt_convnet", "dataset=mnist")["model"], input_shape=(1, 28, 28), num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 166_406
    kinds = [type(layer) for layer in model.features]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear, nn.ReLU]
    assert all(layer.bias is not None for layer in (*model.features, model.head) if hasattr(layer, "weight"))
    strided = [(m.kernel_size, m.stride, m.padding) for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert strided == [((4, 4), (2, 2), (1, 1))] * 2


@pytest.mark.parametrize("name", WIDE)
def test_the_wide_residual_network_is_the_published_one(name):
    """As large as it was published: without its memory, on the meta device."""
    with torch.device("meta"):
        model = build(composed(*WIDE[name])["model"], input_shape=(3, 32, 32), num_classes=10)
    parseval = "parseval" in name
    assert sum(p.numel() for p in model.parameters()) == 2_748_890 + (6 * 2 if parseval else 0)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    found = [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0]) for m in convolutions]
    assert found == wide_resnet("average" in name)
    assert all(m.bias is None for m in convolutions)
    assert all(
        (type(m) is ParsevalConv2d and m.beta == 1e-4) if parseval else type(m) is nn.Conv2d for m in convolutions
    )
    assert sum(isinstance(m, ConvexSum) for m in model.modules()) == (6 if parseval else 0)
    normalisations = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.num_features for m in normalisations] == [16, *[64] * 4, *[128] * 4, *[256] * 4]
    assert all((m.eps, m.momentum, m.affine, m.track_running_stats) == (2e-5, 0.1, True, True) for m in normalisations)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.4] * 6
    pools = [m for m in model.modules() if isinstance(m, nn.AvgPool2d)]
    assert [(m.kernel_size, m.stride) for m in pools] == [(2, 2)] * (2 if "average" in name else 0)
    assert [type(layer) for layer in model.features.stem] == [type(convolutions[0]), nn.BatchNorm2d]  # and no ReLU


@pytest.mark.parametrize("name", WIDE)
def test_a_residual_network_computes_what_the_authors_does(name):
    """Their forward pass, written out from their code, on the same weights."""
    model = build({**composed(*WIDE[name])["model"], "width": 1}, input_shape=(3, 32, 32), num_classes=10).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(-1, 2)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 3)
        if isinstance(module, ConvexSum):
            module.alpha.data = torch.tensor([0.3, 0.7], dtype=torch.float64)
    model.eval()
    parseval = "parseval" in name

    def conv(layer, x):
        y = F.conv2d(x, layer.weight, None, layer.stride, layer.padding)
        return y / layer.kernel_size[0] if parseval else y

    def bn(layer, x):
        scale = layer.weight / (layer.running_var + 2e-5).sqrt()
        return scale.view(-1, 1, 1) * (x - layer.running_mean.view(-1, 1, 1)) + layer.bias.view(-1, 1, 1)

    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    trunk = model.features
    x = bnx = bn(trunk.stem[1], conv(trunk.stem[0], image))
    assert (bnx < 0).any()
    shortcuts = []
    for block in trunk.blocks:
        h = conv(block.second, F.relu(bn(block.first[1], conv(block.first[0], bnx))))
        if block.shortcut is None:
            skip = x
        elif "average" in name and h.shape[2] < bnx.shape[2]:
            skip = conv(block.shortcut[1], F.avg_pool2d(bnx, 2))
        else:
            skip = conv(block.shortcut, bnx)
        shortcuts.append(block.shortcut is not None)
        x = 0.3 * h + 0.7 * skip if parseval else h + skip
        bnx = F.relu(bn(block.normalised[0], x))
    assert shortcuts == [False, False, True, False, True, False]  # at width 1 the first group is as wide as the stem
    assert bnx.shape[2:] == (8, 8)
    torch.testing.assert_close(model(image), F.linear(bnx.mean((2, 3)), model.head.weight, model.head.bias))


@pytest.mark.parametrize("name", ["lmt_convnet", "lmt_resnet", "parseval_resnet"])
def test_lmts_networks_start_as_published(name):
    """Convolutions He-normal, linear layers LeCun-normal, biases 0."""
    model = build(composed(f"model={name}", "dataset=svhn")["model"], input_shape=(3, 32, 32), num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            std = (2 / fan_in) ** 0.5 if isinstance(module, nn.Conv2d) else fan_in**-0.5
            spread = 4 / module.weight.numel() ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(std, rel=spread)
            assert module.bias is None or not module.bias.any()


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


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize(("network", "dataset"), PARAMETERS)
def test_tulips_networks_are_the_published_ones(dataset, network, tanh):
    """As large as it was published: without its memory, on the meta device."""
    classes, branches = {"cifar10": (10, 2), "cifar100": (100, 4)}[dataset]
    with torch.device("meta"):
        model = build(of_tulip(dataset, network, tanh), input_shape=(3, 32, 32), num_classes=classes)
    assert type(model) is NETWORKS[network]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == PARAMETERS[network, dataset] + tanh

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
    assert [type(m) for m in last] == ([nn.BatchNorm1d, ScaledTanh] if tanh else [])
    assert all((m.num_features, m.affine) == (classes, False) for m in last[:1])


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize(("network", "dataset"), PARAMETERS)
def test_a_network_of_tulip_computes_what_the_specification_says(dataset, network, tanh):
    """The forward pass, written out, on the same weights of a narrow network."""
    torch.manual_seed(0)
    config = of_tulip(dataset, network, tanh)
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
    if tanh:
        (norm,) = (m for m in model.modules() if isinstance(m, nn.BatchNorm1d))
        (squash,) = (m for m in model.modules() if isinstance(m, ScaledTanh))
        assert float(squash.t.detach()) == pytest.approx(1)
        squash.raw.data += 0.4
        z = (z - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
        t = (1 + squash.raw.exp()).log()
        z = t * (z / t).tanh()
    torch.testing.assert_close(model(image), z)


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_and_biases_start_uniform_within_one_over_the_root_of_the_fan_in(network):
    torch.manual_seed(0)
    model = build(of_tulip("cifar10", network, False), input_shape=(3, 32, 32), num_classes=10)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    normalised = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    (*_, linear) = model.modules()
    pairs = [(layer.weight, norm.bias) for layer, norm in zip(layers, normalised, strict=True)]
    for weight, bias in [*pairs, *([(linear.weight, linear.bias)] if isinstance(linear, nn.Linear) else [])]:
        bound = weight[0].numel() ** -0.5
        for values in (weight.detach(), bias.detach()):
            assert 0.6 * bound < float(values.abs().max()) <= bound * (1 + 1e-6)
            assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=3 / values.numel() ** 0.5)
