"""What a job can ask for in the place of our own ways: boxes, draws, decay and init as in the releases."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import search_spaces
import supernet
from search_spaces import SearchSpace
from search_spaces.restriction import widened
from supernet.distribution import Part
from supernet.initialisation import init_weights
from supernet.training.alone import from_scratch
from supernet.training.mixing import mixed, patch_mixup, published_box, published_mixup
from supernet.training.recipe import Recipe, Sampling
from supernet.training.strategies import MultiArchitectural
from supernet.training.trainer import Training

DRAWS = 20_000
GRID = (4, 4)
AS_RELEASED: dict[str, Any] = {
    "widening": 0.5,
    "patch_mixup": "published",
    "decay_also": ("positions",),
    "sampling": Sampling(strategy="multi_architectural", blocks_twice=True),
    "init_std": 0.02,
}


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 1, 8, 16, generator=generator), torch.randint(19, (16,), generator=generator)


def close(mean: float, expected: float, deviation: float, count: int = DRAWS) -> bool:
    """Within four standard errors."""
    return abs(mean - expected) < 4 * deviation / count**0.5


def shares_of_boxes(side: int) -> dict[float, float]:
    """The probability of each share that a box covers, from the rule as it is told in docs/vit_resnas.md."""
    found: Counter[float] = Counter()
    for area in range(side * side):
        longest = min(side, area)
        heights = range(1, longest - 1) or [1]
        for high in heights:
            wide = area // high
            tall, wide = (area // side, side) if wide > side else (high, wide)
            found[tall * wide / side**2] += 1 / side**2 / len(heights)
    return dict(found)


@pytest.fixture(scope="module")
def boxes() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([published_box(rng, GRID) for _ in range(DRAWS)])


def test_boxes_cover_what_the_released_rule_covers(boxes: np.ndarray) -> None:
    expected = shares_of_boxes(4)
    mean = sum(share * p for share, p in expected.items())
    assert mean == pytest.approx(13 / 32)  # drawn from the released code: 0.407
    assert expected[0.0] == 1 / 16
    covered = boxes.mean(axis=(1, 2))
    assert close(covered.mean(), mean, covered.std())
    for share, p in expected.items():
        assert close((covered == share).mean(), p, (p * (1 - p)) ** 0.5), share
    assert covered.max() < 1


def test_boxes_leave_the_last_row_out_and_columns_but_for_whole_rows(boxes: np.ndarray) -> None:
    assert not boxes[:, -1].any()
    last = boxes[boxes[:, :, -1].any(axis=1)]
    assert len(last)
    assert last.any(axis=1).all()
    rows, columns = boxes.any(axis=2), boxes.any(axis=1)
    assert (boxes == (rows[:, :, None] & columns[:, None, :])).all()


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (2, 4), (6, 3)])
def test_boxes_fit_any_grid(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    found = np.stack([published_box(rng, grid) for _ in range(500)])
    assert found.shape == (500, *grid)
    assert not found.all(axis=(1, 2)).any()


def test_our_own_boxes_cover_other_shares() -> None:
    """The figures of the page: mean 0.517, the whole image 23 %, nothing 1.6 %."""
    rng, count = np.random.default_rng(0), 4 * DRAWS
    own = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 1, 4, 4)
    mixture = patch_mixup(count, grid=GRID, rng=rng)
    labels = torch.zeros(count, dtype=torch.int64)
    images = mixed(own, labels, mixture, classes=1, part=Part.whole(count)).inputs
    half = count // 2
    covered = (images[:half] != own[:half]).float().mean(dim=(1, 2, 3)).numpy()
    assert close(covered.mean(), 0.517, covered.std(), half)
    assert close((covered == 1).mean(), 0.234, 0.43, half)
    assert close((covered == 0).mean(), 0.0156, 0.125, half)


def test_a_half_has_one_box_and_the_other_one_blend() -> None:
    count = 64
    own = torch.arange(count, dtype=torch.float64)[:, None, None, None].expand(count, 1, 8, 8)
    labels = torch.arange(count)
    mixture = published_mixup(count, grid=GRID, rng=np.random.default_rng(3))
    lesson = mixed(own, labels, mixture, classes=count, part=Part.whole(count))
    cells = lesson.patch_labels.reshape(count, 4, 4, count)
    shares = cells[torch.arange(count), :, :, torch.arange(count)]  # of its own in every patch
    whole = shares == 1
    partners = cells.argmax(dim=-1)[:32]
    alone = whole.all(dim=2).all(dim=1)
    assert len({tuple(row.flatten().tolist()) for row in whole[:32][~alone[:32]]}) == 1
    assert partners.max() < 32
    blends = {round(float(share), 6) for share in shares[32:][~alone[32:]].flatten()}
    assert len(blends) == 1
    torch.testing.assert_close(lesson.targets, lesson.patch_labels.mean(dim=1))


def kept(space: SearchSpace, paths: int, seed: int) -> list[bool]:
    rng = np.random.default_rng(seed)
    archs = MultiArchitectural(paths, at_once=2).draw(space, rng)
    return [bool(arch["exists.1"]) for arch in archs]


@pytest.mark.parametrize(
    ("step", "both", "one"),
    [(0, 1, 0), (19, 1, 0), (20, 1 / 3, 2 / 3), (29, 1 / 3, 2 / 3), (30, 1 / 6, 4 / 6)],
)
def test_two_at_once_keep_blocks_as_often_as_the_release(step: int, both: float, one: float) -> None:
    """Of the entries yes, yes, no, no one is let in at first, three from two thirds of the widening on."""
    space = widened(search_spaces.get("vit_resnas"), step, 30, blocks_twice=True)
    draws = [sum(kept(space, 2, seed)) for seed in range(2000)]
    for count, p in ((2, both), (1, one), (0, 1 - both - one)):
        assert close(np.mean([n == count for n in draws]), p, (p * (1 - p)) ** 0.5 + 1e-9, len(draws))


def test_without_it_exactly_one_of_two_keeps_a_block() -> None:
    space = search_spaces.get("vit_resnas")
    assert {sum(kept(space, 2, seed)) for seed in range(200)} == {1}


def test_the_next_two_are_drawn_apart_from_the_first() -> None:
    space = search_spaces.get("vit_resnas")
    archs = [MultiArchitectural(16, at_once=2).draw(space, np.random.default_rng(s)) for s in range(300)]
    for lot in archs:
        dims = [arch["embed_dim.0"] for arch in lot]
        assert all(a != b for a, b in zip(dims[::2], dims[1::2], strict=True))
    alike = np.mean([lot[0]["embed_dim.0"] == lot[2]["embed_dim.0"] for lot in archs])
    assert close(alike, 0.25, 0.44, len(archs))  # of four options


def test_each_lot_has_its_own_block_of_the_batch_and_its_own_mixing() -> None:
    strategy = MultiArchitectural(4, at_once=2)
    shares = [list(range(16))[part] for part in strategy.share(16, 4)]
    assert shares == [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]]
    assert [list(range(6))[part] for part in strategy.share(6, 1)] == [[0, 1, 2, 3, 4, 5]]
    trained = training(patch_mixup="published")
    own = torch.arange(16, dtype=torch.float64)[:, None, None, None].expand(16, 1, 8, 16)
    images = trained.mixed(own, torch.arange(16), 0).inputs
    for block, lowest, highest in ((images[:8], 0, 7), (images[8:], 8, 15)):
        assert block.min() >= lowest
        assert block.max() <= highest
    whole = MultiArchitectural(4)
    assert whole.lots == 1
    assert [list(range(8))[part] for part in whole.share(8, 4)] == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_other_choices_widen_as_before() -> None:
    space = search_spaces.get("vit_resnas_tiny")
    for step in (0, 7, 8, 15, 29):
        ours, theirs = (widened(space, step, 30, blocks_twice=twice) for twice in (False, True))
        for a, b in zip(ours.choices, theirs.choices, strict=True):
            assert a.yes_or_no or a.options == b.options
            assert a.copies == ()


def training(**options: Any) -> Training:
    net = supernet.build(search_spaces.get("vit_resnas"), seed=0)
    recipe = Recipe(**({"steps": 6, "batch_size": 16, "warmup": 2, "largest_first": 0.0} | options))
    return Training(net, MultiArchitectural(4, at_once=2), recipe, seed=0)


def decaying(trained: Training) -> set[str]:
    names = {id(p): name for name, p in trained.supernet.shared.named_parameters()}
    groups = trained._optimizers.param_groups
    return {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"] if id(p) in names}


def test_positions_decay_where_the_recipe_says_so() -> None:
    positions = {"pos_embed", "reductions.0.pos_embed", "reductions.1.pos_embed"}
    assert decaying(training(decay_also=("positions",))) - decaying(training()) == positions
    assert decaying(training(decay_also=("tokens",))) - decaying(training()) == {"cls_token"}


def test_the_tables_of_relative_positions_decay_where_the_recipe_says_so() -> None:
    net = supernet.build(search_spaces.get("autoformer"), seed=0)
    recipe = Recipe(steps=1, decay_also=("relative_positions",))
    more = decaying(Training(net, MultiArchitectural(), recipe, seed=0))
    less = decaying(Training(net, MultiArchitectural(), Recipe(steps=1), seed=0))
    assert more > less
    assert all(name.endswith("_table") for name in more - less)
    assert len(more - less) == sum(name.endswith("_table") for name, _ in net.shared.named_parameters())


def test_fresh_weights_with_the_releases_deviation() -> None:
    net = supernet.build(search_spaces.get("vit_resnas", stem_dim=16), seed=0)
    init_weights(net.shared, torch.Generator().manual_seed(0), std=0.02)
    for name, part in net.shared.named_modules():
        weight, bias = (getattr(part, kind, None) for kind in ("weight", "bias"))
        if isinstance(part, nn.Linear):
            assert close(weight.detach().std().item(), 0.02, 0.02 / 2**0.5, weight.numel()), name
            assert not bias.any()
        elif isinstance(part, nn.Conv2d):
            bound = weight[0].numel() ** -0.5
            assert weight.abs().max() <= bound
            assert close(weight.detach().std().item(), bound / 3**0.5, bound, weight.numel()), name
            assert bias is None or 0 < bias.abs().max() <= bound
        elif isinstance(part, nn.LayerNorm):
            assert (weight == 1).all()


def test_a_subnet_alone_begins_so_too() -> None:
    net = supernet.build(search_spaces.get("vit_resnas"), seed=0)
    arch = net.space.largest
    ours, theirs = (from_scratch(net, arch, seed=0, std=std) for std in (None, 0.02))
    weights = [dict(alone.shared.named_parameters())["blocks.0.mlp.fc1.weight"] for alone in (ours, theirs)]
    assert 0.015 < weights[1].std() < 0.025 < weights[0].std()


def test_a_resumed_training_with_muon_and_all_that_was_released_ends_bit_for_bit() -> None:
    options = AS_RELEASED | {"optimizer": "muon", "ema": 0.9}
    whole, first, second = (training(**options) for _ in range(3))
    list(whole.run(batch))
    list(first.run(batch, until=3))
    second.load_state(first.state())
    list(second.run(batch))
    state, again = whole.state(), second.state()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert {"patch_head.weight", "optimizer.exp_avg.patch_head.weight"} <= state.keys()
    assert "optimizer.momentum_buffer.reductions.0.token.weight" in state


@pytest.mark.slow
def test_a_resumed_training_as_released_ends_bit_for_bit_as_an_uninterrupted_one() -> None:
    whole, first, second = (training(**AS_RELEASED) for _ in range(3))
    list(whole.run(batch, until=4))
    middle = {name: tensor.clone() for name, tensor in whole.supernet.shared.state_dict().items()}
    list(whole.run(batch))
    list(first.run(batch, until=3))
    second.load_state(first.state())
    list(second.run(batch))
    state, again = whole.state(), second.state()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    for left_out in AS_RELEASED.keys() - {"init_std"}:  # which is that of the patch head only, here
        other = training(**{name: value for name, value in AS_RELEASED.items() if name != left_out})
        list(other.run(batch, until=4))
        shared = other.supernet.shared.state_dict()
        assert any(not torch.equal(middle[name], tensor) for name, tensor in shared.items()), left_out
