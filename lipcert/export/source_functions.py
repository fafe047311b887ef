"""Functions that a network's source is written with: of each one that it needs, it gets a copy.

They compute what the operations of `lipcert.frozen.ops` do, by the same functions of torch in the same order, and know
nothing of lipcert. Their lines have at most 88 letters, as formatters of other people's code expect.
"""

import torch
from torch.nn import functional as F


def matrices(x, weight, bias=None):
    """(B, G, n) by G matrices (G, m, n)."""
    x = x.transpose(0, 1)
    if bias is None:
        return (x @ weight.mT).transpose(0, 1)
    return torch.baddbmm(bias[:, None], x, weight.mT).transpose(0, 1)


def along(x, matrix, dim):
    """A matrix times each line of x along `dim`."""
    return F.linear(x.movedim(dim, -1), matrix).movedim(-1, dim)


def softplus(x, beta):
    """log(1 + exp(beta·x))/beta."""
    z = x * beta
    return (z.clamp_min(0) + (-z.abs()).exp().log1p()) / beta


def two_sided(x, dim):
    """(relu(x), relu(−x)), joined along `dim`."""
    return torch.cat((F.relu(x), F.relu(-x)), dim)


def two_sided_sigmoid(x, t, dim):
    """(s(x), s(x) − x) for s(x) = t·sigmoid(4x/t), joined along `dim`."""
    s = t * torch.sigmoid(4 * x / t)
    return torch.cat((s, s - x), dim)


def two_sided_tanh(x, t, dim):
    """(s(x), s(x) − x) for s(x) = t·tanh(x/t), joined along `dim`."""
    s = t * torch.tanh(x / t)
    return torch.cat((s, s - x), dim)


def sort(x, dim, descending):
    """The entries of each line along `dim`, sorted."""
    return torch.sort(x, dim, descending=descending).values


def min_max(x, y, dim):
    """The larger and the smaller of x and y, entry by entry, joined along `dim`."""
    return torch.cat((torch.maximum(x, y), torch.minimum(x, y)), dim)


def split(x, first, second):
    """(first·x, second·x), along a new first axis of each x."""
    return torch.stack((first * x, second * x), 1)


def norm_pool(x, kernel, stride, divisor, delta):
    """√(Σ x²/divisor + delta) over windows of two axes."""
    mean = F.avg_pool2d(x * x, kernel, stride, divisor_override=divisor)
    return (mean + delta).sqrt()


def rearrange(x, index):
    """Entry index[k] of each flattened x for each k, or 0 where that is −1."""
    y = x.flatten(1).index_select(1, index.flatten().clamp_min(0))
    return y.view(-1, *index.shape).where(index >= 0, x.new_zeros(()))


def distances(x, points, p):
    """The l_p distances (B, m) between x (B, n) and points (m, n), without squares."""
    return torch.cdist(x, points, p, compute_mode="donot_use_mm_for_euclid_dist")


def patch_distances(x, filters, stride, padding, groups):
    """‖patch − w‖_∞ at each position, for filters (C', C/groups, k, k) w."""
    side = filters.shape[-1]
    height, width = ((n + 2 * padding - side) // stride + 1 for n in x.shape[2:])
    points, out = filters.flatten(1).chunk(groups), []
    for group, part in enumerate(x.chunk(groups, 1)):
        patches = F.unfold(part, side, stride=stride, padding=padding).mT
        out.append(torch.cdist(patches, points[group], float("inf")).mT)
    return torch.cat(out, 1).unflatten(2, (height, width))


def class_distances(x, images, labels, classes):
    """−(l2 distance to the nearest of the images of each class), −inf without any."""
    x, images = x.flatten(1), images.flatten(1)
    out, own = [], x.square().sum(1, keepdim=True)
    for k in range(classes):
        points = images[labels == k]
        if len(points) == 0:
            out.append(x.new_full((len(x),), -float("inf")))
            continue
        squared = []
        for part in points.split(4096):
            part = part.to(x.dtype) / 255
            squared.append(own - 2 * x @ part.T + part.square().sum(1))
        nearest = points[torch.cat(squared, 1).argmin(1)].to(x.dtype) / 255
        out.append(-((x - nearest).square().sum(1) + 1e-30).sqrt())
    return torch.stack(out, 1)


def recurrent(x, weight, bias, cos, sin):
    """All cos·s and the last h = sin·s, for s = two-sided ReLU of W[x; h] + b."""
    state, outputs = x.new_zeros(len(x), 2 * len(weight)), []
    for step in x.unbind(1):
        z = F.linear(torch.cat((step, state), 1), weight, bias)
        s = torch.cat((F.relu(z), F.relu(-z)), 1)
        outputs.append(cos * s)
        state = sin * s
    return torch.stack([*outputs, state], 1)
