"""Patch-mixup: what is pasted where has its label there, and the head for patches is the training's alone."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import search_spaces
import supernet
from search_spaces.errors import UsageError
from supernet.distribution import Part
from supernet.training.mixing import PatchHead, in_lots, patch_mixup, published_mixup
from supernet.training.mixing import mixed as mix
from supernet.training.recipe import Recipe
from supernet.training.strategies import MultiArchitectural, SinglePath
from supernet.training.trainer import Training

GRID, CLASSES, COUNT = (2, 4), 5, 400


@pytest.fixture(scope="module")
def mixed():
    """Images whose pixels say which image they come from, mixed."""
    own = torch.arange(COUNT, dtype=torch.float64)
    images = own[:, None, None, None].expand(COUNT, 2, 6, 8)
    labels = torch.arange(COUNT) % CLASSES
    rng = np.random.default_rng(0)
    mixture = patch_mixup(COUNT, grid=GRID, rng=rng)
    return labels, mix(images, labels, mixture, classes=CLASSES, part=Part.whole(COUNT))


def patches(images: torch.Tensor) -> torch.Tensor:
    """(B, rows, columns, pixels of a patch)."""
    b, c, h, w = images.shape
    cells = images.reshape(b, c, GRID[0], h // GRID[0], GRID[1], w // GRID[1])
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3)


def test_every_patch_of_the_first_half_comes_from_one_image_and_has_its_label(mixed) -> None:
    labels, lesson = mixed
    half = COUNT // 2
    cells = patches(lesson.inputs[:half])
    assert (cells == cells[..., :1]).all()
    sources = cells[..., 0].long().flatten(1)
    expected = F.one_hot(labels[sources], CLASSES).float()
    torch.testing.assert_close(lesson.patch_labels[:half], expected)
    others = [set(row.tolist()) - {i} for i, row in enumerate(sources)]
    assert all(len(other) <= 1 for other in others)
    assert all(max(other, default=0) < half for other in others)
    assert sum(len(other) == 1 for other in others) > half // 2


def test_what_is_pasted_is_a_rectangle_and_covers_any_share(mixed) -> None:
    _, lesson = mixed
    half = COUNT // 2
    sources = patches(lesson.inputs[:half])[..., 0].long()
    pasted = sources != torch.arange(half)[:, None, None]
    rows, columns = pasted.any(dim=2), pasted.any(dim=1)
    assert torch.equal(pasted, rows[:, :, None] & columns[:, None, :])
    for line in (*rows, *columns):
        places = line.nonzero().flatten().tolist()
        assert places == list(range(places[0], places[-1] + 1)) if places else True
    shares = pasted.float().mean(dim=(1, 2))
    assert abs(float(shares.mean()) - 0.5) < 0.1
    assert shares.min() == 0
    assert shares.max() == 1


def test_the_second_half_is_blended_as_a_whole(mixed) -> None:
    labels, lesson = mixed
    half = COUNT // 2
    blended = lesson.patch_labels[half:]
    assert torch.equal(blended, blended[:, :1].expand_as(blended))
    flat = lesson.inputs[half:].flatten(1)
    torch.testing.assert_close(flat, flat[:, :1].expand_as(flat))
    # Where two classes meet, the own one's share is that of the own pixel value.
    own = torch.arange(half, COUNT)
    weight = blended[torch.arange(half), 0, labels[half:]]
    mixed_with = (flat[:, 0] - weight * own) / (1 - weight)
    clear = (weight > 0.05) & (weight < 0.95)
    assert clear.sum() > half // 4
    rest = mixed_with[clear]
    torch.testing.assert_close(rest, rest.round(), atol=1e-2, rtol=0)
    assert rest.min() > half - 1


def test_labels_of_an_image_are_the_mean_of_its_patches(mixed) -> None:
    _, lesson = mixed
    torch.testing.assert_close(lesson.targets, lesson.patch_labels.mean(dim=1))
    torch.testing.assert_close(lesson.targets.sum(dim=1), torch.ones(COUNT))


def test_a_part_is_a_part_of_everything(mixed) -> None:
    _, lesson = mixed
    part = lesson.part(slice(1, None, 4))
    assert torch.equal(part.inputs, lesson.inputs[1::4])
    assert torch.equal(part.targets, lesson.targets[1::4])
    assert torch.equal(part.patch_labels, lesson.patch_labels[1::4])


@pytest.mark.parametrize("rule", [patch_mixup, published_mixup])
def test_whoever_has_a_part_of_a_batch_and_its_partners_mixes_the_same(rule) -> None:
    count, generator = 24, torch.Generator().manual_seed(0)
    images, labels = torch.randn(count, 2, 6, 8, generator=generator), torch.arange(count) % CLASSES
    mixture = in_lots(rule, count, 3, grid=GRID, rng=np.random.default_rng(1))
    whole = mix(images, labels, mixture, classes=CLASSES, part=Part.whole(count))
    for seen in ({0, 1, 2}, {7, 15, 23}, set(range(6, 18))):
        places = sorted(seen | {int(mixture.partners[place]) for place in seen})
        part = Part(count, places)
        some = mix(images[places], labels[places], mixture, classes=CLASSES, part=part)
        for place in seen:
            mine = some.part(part.at(range(place, place + 1)))
            assert torch.equal(mine.inputs[0], whole.inputs[place])
            assert torch.equal(mine.targets[0], whole.targets[place])
            assert torch.equal(mine.patch_labels[0], whole.patch_labels[place])


def training(patch_mixup: bool) -> Training:
    recipe = Recipe(steps=6, batch_size=16, warmup=2, largest_first=0.0, patch_mixup=patch_mixup)
    return Training(supernet.build(search_spaces.get("vit_resnas")), MultiArchitectural(2), recipe, seed=0)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 1, 8, 16, generator=generator), torch.randint(19, (16,), generator=generator)


def test_the_loss_is_that_of_the_class_token_and_of_the_patches() -> None:
    trained = training(patch_mixup=True)
    net, head = trained.supernet, trained._patch_head
    assert head is not None
    assert head.grid == (1, 2)
    x, labels = batch(0)
    archs = [net.space.smallest, net.space.largest]
    lesson = trained.mixed(x, labels, trained.step)
    losses = []
    for i, arch in enumerate(archs):
        part = lesson.part(slice(i, None, 2))
        logits, patches = net.with_patches(part.inputs, arch)
        weight = head.patch_head.weight[:, : patches.shape[-1]]
        of_patches = (patches @ weight.T + head.patch_head.bias).flatten(0, 1)
        assert part.patch_labels is not None
        loss = F.cross_entropy(logits, part.targets, label_smoothing=0.05)
        losses.append(
            loss + F.cross_entropy(of_patches, part.patch_labels.flatten(0, 1), label_smoothing=0.05)
        )
    (sum(losses) / 2).backward()
    named = {**dict(net.shared.named_parameters()), **dict(head.named_parameters())}
    expected = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    for parameter in named.values():
        parameter.grad = None
    first = trained._backward(x, labels, archs)
    torch.testing.assert_close(first, losses[0].detach())
    assert "patch_head.weight" in expected
    for name, gradient in expected.items():
        torch.testing.assert_close(named[name].grad, gradient, rtol=1e-4, atol=1e-6)


def test_the_head_learns_and_stays_behind() -> None:
    trained = training(patch_mixup=True)
    assert trained._patch_head is not None
    before = trained._patch_head.patch_head.weight.detach().clone()
    list(trained.run(batch))
    assert not torch.equal(before, trained._patch_head.patch_head.weight)
    assert trained.weights().keys() == training(patch_mixup=False).weights().keys()


def test_a_family_without_patches_is_refused() -> None:
    net = supernet.build(search_spaces.get("matformer"))
    with pytest.raises(UsageError, match="family 'matformer' have no labels for patches"):
        Training(net, SinglePath(), Recipe(steps=2, patch_mixup=True), seed=0)
    with pytest.raises(UsageError):
        PatchHead.of(net, seed=0)
