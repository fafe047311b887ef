"""Functions, methods and operators as users write them: the frozen network and its module agree."""

import math

import pytest
import torch
from capturing import IMAGE, SERIES, VECTOR, Own, Side, agrees, batches, parameter, scattered
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from lipcert.frozen.freeze import double_copy, freeze
from lipcert.layers import NonexpansiveRNN


def conv(a, b):
    return nn.Conv2d(a, b, 3, padding=1)


FORMS = {
    "view size": (IMAGE, lambda x, f: f(x.view(x.size(0), -1)), dict(f=nn.Linear(120, 3))),
    "view -1": (IMAGE, lambda x, f: f(x.view(-1, 120)), dict(f=nn.Linear(120, 3))),
    "reshape b": (
        IMAGE,
        lambda x: [b := x.shape[0], x.reshape(b, 2, -1).permute(0, 2, 1).contiguous().view(b, -1)][1],
        {},
    ),
    "flattens": (
        IMAGE,
        lambda x: x.flatten(2).flatten(-2) + x.flatten(1) + torch.flatten(x, start_dim=1) + x.reshape(x.shape[0], -1),
        {},
    ),
    "einopsish": (IMAGE, lambda x: x.reshape(-1, 2, 2, 3, 2, 5).permute(0, 1, 3, 5, 2, 4).reshape(-1, 2, 15, 4), {}),
    "movedim": (
        IMAGE,
        lambda x: x.movedim(1, -1).swapaxes(1, 2).moveaxis(-1, 1).transpose(-1, -2).mT.swapdims(1, 2),
        {},
    ),
    "channels last": (IMAGE, lambda x: x.permute(0, 2, 3, 1)[..., None].squeeze(-1).unsqueeze(1).squeeze(1), {}),
    "chunk": (IMAGE, lambda x: [(p := x.chunk(3, 1)), torch.cat([p[1], p[0]], 1)][1], {}),
    "split": (IMAGE, lambda x: torch.cat([*x.split([1, 3], 1)[::-1], *x.split(3, dim=1)], 1), {}),
    "split2": (IMAGE, lambda x: torch.cat([*torch.split(x, 2, 2), *torch.tensor_split(x, 2, 2)], 2), {}),
    "tensor_split idx": (IMAGE, lambda x: torch.tensor_split(x, (1, 4), 2)[1], {}),
    "unbind": (
        IMAGE,
        lambda x: torch.stack(x.unbind(1)[::-1], 1) + torch.stack(x.unbind(2), -1).permute(0, 1, 3, 2),
        {},
    ),
    "stack": (VECTOR, lambda x: torch.stack([x, 2 * x, -x], dim=-1), {}),
    "hstack": (VECTOR, lambda x: torch.hstack([x, 2 * x]), {}),
    "concat": (VECTOR, lambda x: torch.concat([x, torch.concatenate([x, 2 * x], 1)], -1), {}),
    "roll": (IMAGE, lambda x: torch.roll(x, (1, -2), (2, 3)) + x.roll(1, 1), {}),
    "flip": (IMAGE, lambda x: torch.flip(x, [1, 3]) + x.fliplr(), {}),
    "rot90": (IMAGE, lambda x: torch.rot90(x, 1, (2, 3)), {}),
    "slice": (IMAGE, lambda x: x[:, 1:3, ::2] + x[:, :2, ::2, :], {}),
    "slice ellipsis": (IMAGE, lambda x: x[..., -2:], {}),
    "select": (IMAGE, lambda x: x[:, 0] - x[:, -1, ...] + x.select(1, 2) + x.narrow(1, 1, 1).squeeze(1), {}),
    "index list": (IMAGE, lambda x: x[:, [2, 0, 1]], {}),
    "index_select": (IMAGE, lambda x, i: torch.index_select(x, 1, i) + x[:, i], dict(i=torch.tensor([2, 2, 0]))),
    "tril": (IMAGE, lambda x: x.tril(), {}),
    "diag": (IMAGE, lambda x: x.diagonal(dim1=2, dim2=3), {}),
    "pads": (
        IMAGE,
        lambda x: (
            F.pad(x, (1, 2))
            + F.pad(x, (1, 2, 0, 0), value=0.5)
            + F.pad(x, (1, 2, 0, 0), "reflect")
            + F.pad(x, (1, 2, 0, 0), "replicate")
            + F.pad(x, (1, 2, 0, 0), "circular")
        ),
        {},
    ),
    "pad ch": (IMAGE, lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)) + F.pad(x, (0, 0, 0, 0, 2, 1), "constant", 0), {}),
    "pad neg": (IMAGE, lambda x: F.pad(x, (-1, 2, 1, -2), value=-3), {}),
    "pad int": (IMAGE, lambda x: F.pad(x, (1,) * 4, mode="constant", value=1), {}),
    "interp": (
        IMAGE,
        lambda x: (
            F.interpolate(x, scale_factor=2)
            + F.interpolate(x, size=(12, 10), mode="bilinear")
            + F.interpolate(x, size=(12, 10), mode="bilinear", align_corners=True)
        ),
        {},
    ),
    "interp area": (IMAGE, lambda x: F.interpolate(x, size=(3, 2), mode="area"), {}),
    "interp down": (
        IMAGE,
        lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear") + F.interpolate(x, scale_factor=0.5),
        {},
    ),
    "pixel": (IMAGE, lambda x: F.pixel_shuffle(x, 2) + F.channel_shuffle(x, 2).repeat(1, 1, 2, 2)[:, :1], {}),
    "unfold": (IMAGE, lambda x: F.unfold(x, 2, padding=1, dilation=2, stride=2), {}),
    "x.unfold": (IMAGE, lambda x: x.unfold(2, 2, 2).unfold(3, 2, 1), {}),
    "repeat": (
        IMAGE,
        lambda x: x.repeat(1, 2, 1, 1) + x.repeat_interleave(2, 1) + torch.cat([x, x], 1) + x.tile((1, 2, 1, 1)),
        {},
    ),
    "expand": (
        IMAGE,
        lambda x: x[:, :1].expand(-1, 4, -1, -1) + x[:, :1].expand_as(x) + torch.broadcast_to(x[:, :1], x.shape),
        {},
    ),
    "broadcast add": (IMAGE, lambda x: x + x.mean(1, keepdim=True) * 2 + x.amax((2, 3), keepdim=True), {}),
    "means": (
        IMAGE,
        lambda x: x - x.mean((2, 3), keepdim=True) + x.mean(1, True) - x.mean(dim=(1, 2, 3), keepdim=True),
        {},
    ),
    "mean m": (IMAGE, lambda x: torch.mean(x, [2, 3]) + x.sum((2, 3)) + x.sum(-1).sum(-1) + x.flatten(2).mean(-1), {}),
    "x-mean(1)": (VECTOR, lambda x: x - x.mean(1)[:, None] + (x - x.mean(-1, keepdim=True)), {}),
    "sum all": (IMAGE, lambda x: x.sum(dim=(1, 2, 3))[:, None], {}),
    "arith": (
        VECTOR,
        lambda x: (
            x / 2
            + 2
            - x * 3
            - (-x)
            + (1 - x) / 4
            + torch.sub(x, x, alpha=2)
            + torch.add(x, 1, alpha=3)
            + 2 * x
            + x.div(3)
            + x.true_divide(2)
        ),
        {},
    ),
    "arith2": (
        VECTOR,
        lambda x: (
            torch.rsub(x, 1, alpha=2)
            + x.neg()
            + x.mul(2).add(1).sub(3).div(2)
            + torch.multiply(x, 2)
            + torch.subtract(x, 1)
            + torch.divide(x, 2)
            + x.negative()
            + x.absolute()
            + (+x)
        ),
        {},
    ),
    "inplace": (
        VECTOR,
        lambda x: [(y := x * 1), y.mul_(2), y.add_(1), y.sub_(0.5), y.div_(2), y.neg_(), y.clamp_(-1, 1), y.relu_(), y][
            -1
        ],
        {},
    ),
    "iadd": (VECTOR, lambda x, f: [(y := f(x)), y.add_(x, alpha=0.5), y + y][-1], dict(f=nn.Linear(6, 6))),
    "matmul": (
        VECTOR,
        lambda x, w: (
            x @ w + torch.mm(x, w) + torch.matmul(x, w) + torch.addmm(w[0], x, w) + x.matmul(w) + F.linear(x, w.t())
        ),
        dict(w=parameter(6, 6)),
    ),
    "addmm": (VECTOR, lambda x, w: torch.addmm(w[0], x, w, beta=2, alpha=3), dict(w=parameter(6, 6))),
    "matvec": (VECTOR, lambda x, w: (x @ w)[:, None] + (x * w).sum(1, keepdim=True), dict(w=parameter(6))),
    "w@x": (IMAGE, lambda x, w: w @ x, dict(w=parameter(3, 6))),
    "x@w4": (IMAGE, lambda x, w: x @ w, dict(w=parameter(5, 2))),
    "consts": (
        IMAGE,
        lambda x, m, s, f: f((x - m) / s),
        dict(m=torch.randn(4, 1, 1), s=torch.randn(1, 4, 1, 1).abs() + 0.1, f=conv(4, 2)),
    ),
    "const tensor literal": (
        VECTOR,
        lambda x: (
            x * torch.tensor([1.0, 2, 3, 4, 5, 6])
            + torch.arange(6)
            + torch.linspace(0, 1, 6)
            + torch.ones(6)
            + torch.eye(6)[0]
        ),
        {},
    ),
    "const from param": (
        VECTOR,
        lambda x, w: F.linear(x, w / torch.linalg.matrix_norm(w, 2)) + F.linear(x, w.abs().cumsum(0).softmax(1)),
        dict(w=parameter(6, 6)),
    ),
    "const int div": (
        VECTOR,
        lambda x, w: x * w / w.sum() + x * w.exp().log1p() / w.pow(2).sum().sqrt(),
        dict(w=parameter(6)),
    ),
    "const in train buffers": (VECTOR, lambda x, f: f(x) * f.running_var.sqrt(), dict(f=nn.BatchNorm1d(6))),
    "zeros_like": (
        VECTOR,
        lambda x: torch.maximum(x, torch.zeros_like(x)) + torch.ones_like(x) + torch.full_like(x, 2) + x.new_zeros(6),
        {},
    ),
    "zeros B": (IMAGE, lambda x: torch.cat([x, torch.zeros(x.size(0), 2, 6, 5)], 1), {}),
    "new_zeros cat": (
        IMAGE,
        lambda x: torch.cat(
            [x, x.new_zeros(x.shape[0], 1, 6, 5), torch.zeros_like(x), x.new_ones(x.shape[0], 1, 6, 5)], 1
        ),
        {},
    ),
    "cat param": (VECTOR, lambda x, w: torch.cat([x, w.expand(x.shape[0], -1)], 1), dict(w=parameter(1, 3))),
    "minmax": (VECTOR, lambda x: [(p := x.chunk(2, 1)), torch.cat([torch.max(*p), torch.min(*p)], 1)][1], {}),
    "maxout": (
        VECTOR,
        lambda x, f: (
            f(x).view(-1, 3, 4).max(dim=2)[0] + f(x).view(-1, 3, 4).max(2).values + f(x).unflatten(1, (3, 4)).amax(-1)
        ),
        dict(f=nn.Linear(6, 12)),
    ),
    "min dim": (
        VECTOR,
        lambda x, f: f(x).view(-1, 3, 4).min(2, keepdim=True).values + f(x).unflatten(1, (3, 4)).amin(-1, keepdim=True),
        dict(f=nn.Linear(6, 12)),
    ),
    "groupsort": (
        VECTOR,
        lambda x: [
            x.view(-1, 2, 3).sort(-1)[0].reshape(-1, 6),
            torch.sort(x.view(-1, 2, 3), dim=2, descending=True).values.flatten(1),
        ][0],
        {},
    ),
    "topk": (VECTOR, lambda x: x.topk(3, 1)[0] + x.topk(3, 1, largest=False).values, {}),
    "cdist": (
        VECTOR,
        lambda x, w: torch.cdist(x, w) + torch.cdist(x, w, p=1) - torch.cdist(x, w, p=math.inf),
        dict(w=parameter(3, 6)),
    ),
    "linf manual": (VECTOR, lambda x, w: (x[:, None] - w).abs().amax(2), dict(w=parameter(3, 6))),
    "max neg": (
        VECTOR,
        lambda x, w: (
            torch.min(x, w) + torch.maximum(w, x) + torch.minimum(x, 2 * x) + torch.fmax(x, w)
            if False
            else torch.min(x, w) + torch.maximum(w, x) + torch.minimum(x, 2 * x)
        ),
        dict(w=parameter(6)),
    ),
    "clamp t": (VECTOR, lambda x, w: x.clamp(min=w) + torch.clamp(x, max=w) + x.clamp(w, w + 1), dict(w=parameter(6))),
    "hard funcs": (
        IMAGE,
        lambda x: F.max_pool2d(x, 2, padding=1) + F.adaptive_max_pool2d(x, (4, 3)) + F.adaptive_avg_pool2d(x, (4, 3)),
        {},
    ),
    "pool3": (IMAGE, lambda x: F.avg_pool2d(x, 2, ceil_mode=True) + F.max_pool2d(x, (2, 2), ceil_mode=True), {}),
    "fn conv": (
        IMAGE,
        lambda x, w: (
            F.conv2d(x, w, padding="same") + F.conv2d(x, w, None, 1, 1) + F.conv_transpose2d(x, w, padding=1).flip(1)
        ),
        dict(w=parameter(4, 4, 3, 3)),
    ),
    "bn fn": (
        IMAGE,
        lambda x, f: F.batch_norm(x, f.running_mean, f.running_var, f.weight, f.bias, False, 0.1, 1e-3),
        dict(f=nn.BatchNorm2d(4)),
    ),
    "dropout fn": (IMAGE, lambda x: F.dropout(x, 0.5, False) + F.dropout2d(x, training=False), {}),
    "silu man": (VECTOR, lambda x: x * x.sigmoid(), {}),
    "softsign man": (VECTOR, lambda x: x / (1 + x.abs()) + x / (x.abs() + 1), {}),
    "double()": (VECTOR, lambda x: x.double() * 2, {}),
    "dot shift": (VECTOR, lambda x: x.sum(1, keepdim=True).expand(-1, 6) - x, {}),
    "shape scale": (VECTOR, lambda x: x / x.shape[1] ** 0.5 / math.sqrt(x.size(1)) + x.numel() / x.shape[0] * 0, {}),
    "squeeze all": ((1, 6), lambda x: x.squeeze(1) + x.squeeze(dim=1) + x[:, 0], {}),
    "permute back": (IMAGE, lambda x, f: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), dict(f=nn.Linear(4, 3))),
    "normalize w": (VECTOR, lambda x, w: F.linear(x, F.normalize(w)), dict(w=parameter(3, 6))),
    "parallel": (IMAGE, lambda x, m: torch.cat([f(x) for f in m], 1), dict(m=nn.ModuleList([conv(4, 2), conv(4, 1)]))),
    "dict": (IMAGE, lambda x, m: m["a"](x) + m["b"](x), dict(m=nn.ModuleDict({"a": conv(4, 2), "b": conv(4, 2)}))),
    "params": (
        IMAGE,
        lambda x, p: F.conv2d(x, p["w"], p["b"]),
        dict(p=nn.ParameterDict({"w": torch.randn(2, 4, 3, 3), "b": torch.randn(2)})),
    ),
    "if shape": (IMAGE, lambda x, m: m(x) if x.shape[1] == 4 and x.dim() == 4 else x, dict(m=conv(4, 2))),
    "for": (VECTOR, lambda x, m: [x := x + F.relu(m(x)) for _ in range(3)][-1], dict(m=nn.Linear(6, 6))),
    "nograd": (VECTOR, lambda x, m: torch.no_grad()(lambda: m(x))(), dict(m=nn.Linear(6, 6))),
    "checks": (VECTOR, lambda x, m: (torch._assert(x.shape[1] == 6, "six"), m(x))[1], dict(m=nn.Linear(6, 6))),
    "wn": (
        IMAGE,
        lambda x, m: m(x),
        dict(
            m=nn.Sequential(
                parametrizations.weight_norm(conv(4, 3)),
                parametrizations.spectral_norm(conv(3, 3)),
                nn.Flatten(),
                parametrizations.orthogonal(nn.Linear(90, 5)),
                parametrizations.orthogonal(nn.Linear(5, 7), orthogonal_map="cayley"),
            )
        ),
    ),
    "rnn": (SERIES, lambda x, m: m(x), dict(m=NonexpansiveRNN(10, 3))),
}


@pytest.mark.parametrize("shape", sorted({shape for shape, _, _ in FORMS.values()}))
def test_forms(shape):
    forms = {name: Own(f, **parts) for name, (s, f, parts) in FORMS.items() if s == shape}
    module = scattered(Side(forms.values())).eval()
    network, exact = freeze(module, shape), double_copy(module)
    for images in batches(shape):
        with torch.no_grad():
            pieces = [part(images).flatten(1) for part in exact.parts]
        whole = network(images).split([piece.shape[1] for piece in pieces], 1)
        for name, ours, theirs in zip(forms, whole, pieces, strict=True):
            assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max(), name


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_the_weight_norms_of_old():
    agrees(nn.Sequential(weight_norm(conv(4, 3)), spectral_norm(conv(3, 3)), nn.Flatten()), IMAGE)
    module = nn.Sequential(weight_norm(nn.Linear(6, 3)))
    module(torch.rand(2, 6))  # its weight is no leaf now
    agrees(module, VECTOR)
