"""Augmentations against an image-by-image reference, and batches that any number of ranks see alike."""

import numpy as np
import pytest
import torch
from PIL import Image

from lipcert.datasets.augmentation import CenterCrop, Cutout, HorizontalFlip, RandomCrop
from lipcert.datasets.batching import batches
from lipcert.datasets.digits import digits
from lipcert.datasets.files import image_files
from lipcert.datasets.split import Split

ALL = (RandomCrop(padding=2, fill=128), HorizontalFlip(), Cutout(size=5))


def crop_one(item, image, u):
    pad = item.padding
    border = [(0, 0), (pad, pad), (pad, pad)]
    edge = item.fill == "edge"
    padded = np.pad(image, border, mode="edge") if edge else np.pad(image, border, constant_values=item.fill / 255)
    height, width = (item.size or length for length in image.shape[1:])
    top = int(u[0] * (padded.shape[1] - height + 1))
    left = int(u[1] * (padded.shape[2] - width + 1))
    return padded[:, top : top + height, left : left + width]


def flip_one(item, image, u):
    return image[:, :, ::-1] if u[0] < 0.5 else image


def cut_one(item, image, u):
    image = image.copy()
    starts = [int(u[i] * (length + 1)) - item.size // 2 for i, length in enumerate(image.shape[1:])]
    rows, columns = (slice(max(start, 0), max(start + item.size, 0)) for start in starts)
    square = image[:, rows, columns]
    if square.size:
        square[:] = square.mean((1, 2), keepdims=True) if item.fill == "mean" else item.fill / 255
    return image


def center_one(item, image, u):
    top, left = ((length - item.size) // 2 for length in image.shape[1:])
    return image[:, top : top + item.size, left : left + item.size]


@pytest.mark.parametrize(
    ("item", "reference"),
    [
        (RandomCrop(padding=4), crop_one),
        (RandomCrop(padding=1, fill="edge"), crop_one),
        (RandomCrop(padding=3, fill=127.5, size=9), crop_one),
        (RandomCrop(size=7), crop_one),
        (HorizontalFlip(), flip_one),
        (Cutout(size=1), cut_one),
        (Cutout(size=6), cut_one),
        (Cutout(size=5, fill=0), cut_one),
        (Cutout(size=40), cut_one),
        (CenterCrop(size=7), center_one),
        (CenterCrop(size=8), center_one),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 11, 14)])
def test_a_batch_is_augmented_as_image_by_image(item, reference, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, *shape, generator=generator, dtype=torch.float64)
    u = torch.rand(200, item.draws, generator=generator)
    u[0], u[1] = 0, 1 - 2**-24  # the ends of what torch.rand returns
    expected = np.stack([reference(item, image, row) for image, row in zip(x.numpy(), u.numpy(), strict=True)])
    assert np.allclose(item(x, u).numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("choices", [2, 3, 5, 9, 33, 127, 1001])
def test_the_largest_uniform_number_picks_the_last_place(choices):
    x = torch.arange(choices, dtype=torch.float32)[None, None, None].expand(2, 1, choices, choices)
    u = torch.tensor([[0.0, 0.0], [1 - 2**-24] * 2])
    assert RandomCrop(size=1)(x, u).flatten().tolist() == [0, choices - 1]


def test_crops_and_flips_are_uniform():
    x = torch.arange(25.0).reshape(1, 1, 5, 5).expand(20000, 1, 5, 5)
    u = torch.rand(20000, 3, generator=torch.Generator().manual_seed(1))
    corners = RandomCrop(size=3)(x, u[:, :2])[:, 0, 0, 0]
    counts = torch.stack([(corners == corner).sum() for corner in (0, 1, 2, 5, 6, 7, 10, 11, 12)])
    assert counts.sum() == 20000 and (counts / 20000 - 1 / 9).abs().max() < 0.01
    assert abs((HorizontalFlip()(x, u[:, 2:])[:, 0, 0, 0] == 4).float().mean() - 0.5) < 0.015


@pytest.mark.parametrize(
    ("match", "make"),
    [
        ("`fill`", lambda: RandomCrop(fill="mean")),
        ("`fill`", lambda: RandomCrop(fill=256)),
        ("`fill`", lambda: Cutout(size=3, fill=-1)),
        ("`fill`", lambda: RandomCrop(fill=None)),
        ("`RandomCrop.padding`", lambda: RandomCrop(padding=-1)),
        ("`RandomCrop.padding`", lambda: RandomCrop(padding="4")),
        ("`RandomCrop.padding`", lambda: RandomCrop(padding=10**9)),
        ("`RandomCrop.size`", lambda: RandomCrop(size=2.5)),
        ("`Cutout.size`", lambda: Cutout(size=0)),
        ("`CenterCrop.size`", lambda: CenterCrop(size=-1)),
        ("`RandomCrop.size`", lambda: digits(augment=[RandomCrop(size=9)])),
        ("`CenterCrop.size`", lambda: digits(augment=[CenterCrop(size=9)])),
        ("`dataset.crop`", lambda: digits(augment=[RandomCrop(size=6)])),
    ],
)
def test_what_cannot_be_is_refused(match, make):
    with pytest.raises(ValueError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


def numbered(count, side=6):
    """Images whose pixels say which they are: image i is filled with i, its label is i."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, side, side).contiguous()
    return Split(images, torch.arange(count))


@pytest.fixture
def textured():
    images = torch.randint(256, (53, 3, 12, 12), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return Split(images, torch.arange(53))


@pytest.fixture
def on_disk(textured, tmp_path):
    for i, image in enumerate(textured.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    return Split(image_files([str(tmp_path / f"{i}.png") for i in range(53)]), textured.labels)


def equal(first, second):
    pairs = zip(first, second, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def test_unshuffled_images_come_in_order_as_exact_pixels():
    split = Split(torch.arange(256, dtype=torch.uint8)[:, None, None, None], torch.arange(256))
    loader = batches(split, 100, device="cpu")
    assert len(loader) == 3 and [len(y) for _, y in loader] == [100, 100, 56]
    x = torch.cat([x for x, _ in loader])
    assert x.dtype == torch.float32 and torch.equal(x.flatten(), torch.arange(256) / 255)
    assert torch.equal(torch.cat([y for _, y in loader]), split.labels)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 on, where PyTorch has its threads
def test_images_on_disk_give_the_batches_of_images_in_memory(textured, on_disk, workers):
    keys = {"device": "cpu", "augment": ALL, "shuffle": True, "seed": 3}
    for rank in range(2):
        memory = batches(textured, 20, **keys, rank=rank, world_size=2)
        disk = batches(on_disk, 20, **keys, rank=rank, world_size=2, workers=workers)
        memory.epoch = disk.epoch = 1
        assert equal(memory, disk)
    assert torch.equal(on_disk.head(5).images.in_memory("reading"), textured.head(5).images)


@pytest.mark.parametrize("augment", [ALL, ()], ids=["augmented", "plain"])
@pytest.mark.parametrize("kept", ["textured", "on_disk"])
def test_an_epoch_is_a_pure_function_of_seed_and_epoch(kept, augment, request):
    split = request.getfixturevalue(kept)

    def loader(seed, epoch):
        result = batches(split, 10, device="cpu", augment=augment, shuffle=True, seed=seed)
        result.epoch = epoch
        return result

    state = torch.get_rng_state()
    again = loader(0, 1)
    list(again)
    assert equal(again, loader(0, 1))
    assert not equal(again, loader(0, 2)) and not equal(again, loader(1, 1))
    assert torch.equal(state, torch.get_rng_state())
    for batch in (again, loader(0, 2)):
        assert sorted(torch.cat([y for _, y in batch]).tolist()) == list(range(53))


@pytest.mark.parametrize("world_size", [2, 4, 12])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_together_see_what_one_rank_sees(textured, world_size, drop_last):
    keys = {"device": "cpu", "augment": ALL, "shuffle": True, "seed": 4, "drop_last": drop_last}
    alone = batches(textured, 24, **keys)
    ranks = [batches(textured, 24, **keys, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(loader) for loader in ranks} == {len(alone)} == {2 if drop_last else 3}
    for (x, y), *shares in zip(alone, *ranks, strict=True):
        assert torch.equal(x, torch.cat([share for share, _ in shares]))
        assert torch.equal(y, torch.cat([labels for _, labels in shares]))
        assert max(len(labels) for _, labels in shares) - min(len(labels) for _, labels in shares) <= (len(y) < 24)


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size", "sizes"),
    [(10, 4, 2, [4, 4]), (8, 4, 2, [4, 4]), (3, 4, 2, [2]), (7, 8, 4, [4]), (5, 100, 1, [5])],
)
def test_drop_last_never_leaves_nothing(count, batch_size, world_size, sizes):
    loader = batches(numbered(count), batch_size, device="cpu", drop_last=True, world_size=world_size)
    assert [len(y) * world_size for _, y in loader] == sizes and len(loader) == len(sizes)


def test_an_empty_split_has_no_batches():
    assert list(batches(numbered(0), 10, device="cpu")) == []


@pytest.mark.parametrize(
    ("match", "keys"),
    [
        ("`batch_size`", {"batch_size": 0}),
        ("`batch_size`", {"batch_size": -8}),
        ("`batch_size`", {"batch_size": 10, "world_size": 4}),
        ("`rank`", {"rank": 2, "world_size": 2}),
        ("`devices`", {"drop_last": True, "world_size": 8, "batch_size": 8}),
    ],
)
def test_batches_refuse_what_cannot_be_shared(match, keys):
    with pytest.raises(ValueError, match=match) as caught:
        batches(numbered(5), **{"batch_size": 4, "device": "cpu"} | keys)
    assert "\n" not in str(caught.value)


def test_splits_are_cut_and_moved(textured):
    assert len(textured.head(None)) == 53 and len(textured.head(7)) == 7 and len(textured.head(99)) == 53
    moved = textured.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert textured.input_shape == (3, 12, 12)


@pytest.mark.gpu
def test_a_gpu_sees_what_the_cpu_sees(textured):
    keys = {"augment": ALL[:2], "shuffle": True, "seed": 5}
    for (x, y), (u, v) in zip(
        batches(textured, 16, device="cpu", **keys), batches(textured, 16, device="cuda", **keys), strict=True
    ):
        assert torch.equal(x, u.cpu()) and torch.equal(y, v.cpu())
