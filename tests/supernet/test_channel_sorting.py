"""Sorting neurons and heads while a supernet is trained: nothing changes but the order, of moments, too."""

from typing import Any, Literal

import pytest
import torch
from elastic_nets import FEATURES, net
from torch import Tensor

import search_spaces
import supernet
from search_spaces.errors import UsageError
from supernet.plain.layers import Attention, Mlp
from supernet.training.channel_sorting import orders, sort_by_magnitude
from supernet.training.recipe import Recipe
from supernet.training.strategies import SinglePath
from supernet.training.trainer import Training

KINDS = {name: FEATURES[name] for name in ("bare", "gated", "scaled", "no biases", "relative positions")}
kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 8, 12, generator=generator), torch.randint(5, (8,), generator=generator)


@kinds
@torch.no_grad()
def test_the_largest_network_is_unchanged(options: dict[str, Any]) -> None:
    elastic = net(**options).double()
    x = elastic.example_input(4).double()
    before, smallest = elastic.shared(x), elastic(x, elastic.space.smallest)
    sort_by_magnitude(elastic.shared, lambda parameter: ())
    torch.testing.assert_close(elastic.shared(x), before)
    assert not torch.allclose(elastic(x, elastic.space.smallest), smallest)


@kinds
@torch.no_grad()
def test_the_order_is_that_of_the_definition(options: dict[str, Any]) -> None:
    elastic = net(**options)
    for owner, order in orders(elastic.shared):
        scores = []
        if isinstance(owner, Mlp):
            neurons = owner.fc2.in_features
            for i in range(neurons):
                rows = [i, i + neurons] if owner.gated else [i]
                total = owner.fc2.weight[:, i].abs().sum()
                scores.append(total + sum(p[row].abs().sum() for p in owner.fc1.parameters() for row in rows))
        else:
            assert isinstance(owner, Attention)
            for head in range(owner.num_heads):
                own = slice(head * owner.head_dim, (head + 1) * owner.head_dim)
                total = owner.proj.weight[:, own].abs().sum()
                for part in range(3):
                    rows = slice(
                        part * owner.num_heads * owner.head_dim + own.start,
                        part * owner.num_heads * owner.head_dim + own.stop,
                    )
                    total = total + sum(p[rows].abs().sum() for p in owner.qkv.parameters())
                scores.append(total)
        sorted_scores = torch.stack(scores)[order]
        assert torch.equal(sorted_scores, sorted_scores.sort(descending=True).values)


@torch.no_grad()
def test_sorting_twice_is_sorting_once() -> None:
    elastic = net()
    sort_by_magnitude(elastic.shared, lambda parameter: ())
    before = [p.clone() for p in elastic.shared.parameters()]
    sort_by_magnitude(elastic.shared, lambda parameter: ())
    assert all(torch.equal(a, b) for a, b in zip(before, elastic.shared.parameters(), strict=True))


def moments(trained: Training, parameter: Tensor) -> list[Tensor]:
    """Two of AdamW's, one of Muon's."""
    kept = trained._optimizers.moments(parameter)
    fields = ("momentum_buffer",) if "momentum_buffer" in kept else ("exp_avg", "exp_avg_sq")
    return [kept[field] for field in fields]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_moments_and_averages_move_with_the_weights(optimizer: Literal["adamw", "muon"]) -> None:
    """A tag in every entry of a parameter, its moments and its average stays together."""
    recipe = Recipe(
        **{"steps": 20, "batch_size": 8, "warmup": 2, "largest_first": 0.0, "ema": 0.9, "widening": 1.0},
        optimizer=optimizer,
        sort_every=3,
    )
    elastic = net(depth=(2,))
    trained = Training(elastic, SinglePath(), recipe, seed=0)
    list(trained.run(batch, until=3))
    averages = trained._averages()
    assert averages
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in trained._parameters.items():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            for moved in (*moments(trained, parameter), averages[name]):
                moved.copy_(parameter)
    before = {name: p.detach().clone() for name, p in trained._parameters.items()}
    trained._sort()
    changed = []
    for name, parameter in trained._parameters.items():
        for moved in (*moments(trained, parameter), averages[name]):
            assert torch.equal(moved, parameter), name
        changed += [name] if not torch.equal(before[name], parameter) else []
    assert changed
    assert any("momentum_buffer" in name for name in trained.state()) == (optimizer == "muon")
    assert all(".mlp.fc" in name or ".attn.qkv" in name or ".attn.proj.weight" in name for name in changed)


@pytest.mark.parametrize(("largest_first", "sorted_at"), [(0.0, [2, 4, 6]), (0.25, [3, 5, 7, 9])])
def test_it_is_sorted_at_its_steps_and_while_the_widening_lasts(
    monkeypatch: pytest.MonkeyPatch, largest_first: float, sorted_at: list[int]
) -> None:
    seen: list[int] = []
    recipe = Recipe(
        steps=12,
        batch_size=8,
        warmup=2,
        largest_first=largest_first,
        widening=0.5,
        sort_every=2,
    )
    trained = Training(net(), SinglePath(), recipe, seed=0)
    monkeypatch.setattr("supernet.training.trainer.sort_by_magnitude", lambda *_: seen.append(trained.step))
    list(trained.run(batch))
    assert seen == sorted_at


def test_networks_that_are_no_prefixes_are_not_sorted() -> None:
    stitching = supernet.build(search_spaces.get("stitching"))
    recipe = Recipe(steps=4, largest_first=0.0, widening=0.5, sort_every=1)
    with pytest.raises(UsageError, match="no prefixes: there is nothing to sort"):
        Training(stitching, SinglePath(), recipe, seed=0)
