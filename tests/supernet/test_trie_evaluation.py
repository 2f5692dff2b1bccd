"""The trie over steps equals plain evaluation and shares work; standard errors are right."""

import numpy as np
import pytest
import torch
from elastic_nets import FEATURES, net
from torch import Tensor

from supernet.evaluation.scores import Descent, quality, scored
from supernet.evaluation.steps import shared_steps
from supernet.supernet import Supernet


def batches(elastic: Supernet) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    shape = elastic.example_input(1).shape[1:]
    return [
        (torch.randn(n, *shape, generator=generator), torch.randint(5, (n,), generator=generator))
        for n in (6, 3)
    ]


@pytest.mark.parametrize("options", FEATURES.values(), ids=FEATURES.keys())
def test_equal_keys_mean_equal_functions(options):
    """Steps of the last architecture with their key, one by one, are the forward pass of every other."""
    elastic = net(**options)
    archs = elastic.space.decode(elastic.space.sample_choices(np.random.default_rng(0), 8))
    keyed = {}
    for arch in archs:
        for key, (_, step) in zip(elastic.path(arch), elastic.steps(arch), strict=True):
            keyed[key] = step
    for arch in archs:
        x = elastic.example_input(2)
        expected = elastic(x, arch)
        for key in elastic.path(arch):
            x = keyed[key](x)
        assert torch.equal(x, expected)


def test_sharing_changes_no_answer_and_saves_steps():
    elastic = net(embed_dim=(8,), num_heads=(2, 4), mlp_ratio=(1, 2))
    rng = np.random.default_rng(1)
    archs = list(dict.fromkeys(elastic.space.decode(elastic.space.sample_choices(rng, 24))))
    data = batches(elastic)
    plain = {
        arch: torch.cat([elastic.extract(arch)(x).argmax(dim=-1) == labels for x, labels in data])
        for arch in archs
    }
    hits = scored(elastic, archs, data)
    assert list(hits) == archs
    assert all(torch.equal(hits[arch], plain[arch]) for arch in archs)
    steps = shared_steps(elastic)
    descent = Descent(steps, siblings=False, cache=None)
    with torch.inference_mode():
        assert len(list(descent.run(data[0][0], archs, batch=None))) == len(archs)
    paths = [elastic.path(arch) for arch in archs]
    distinct = {path[: i + 1] for path in paths for i in range(len(path))}
    assert descent.macs == sum(steps[prefix[-1]].macs for prefix in distinct)
    assert descent.macs < 0.8 * sum(elastic.space.cost(arch).macs for arch in archs)


def test_independent_examples_have_the_binomial_error():
    hits = torch.tensor([True] * 30 + [False] * 10)
    result = quality(hits)
    assert (result.value, result.count) == (0.75, 40)
    assert result.stderr == pytest.approx((0.75 * 0.25 / 40) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_shared_sources_sum_over_all_pairs_that_share_one(k: int):
    """Against the definition, pair by pair; repeats within and between examples included."""
    rng = np.random.default_rng(k)
    latent = rng.normal(size=25)
    sources = rng.integers(25, size=(200, k))
    hits = latent[sources].sum(axis=1) > 0
    residuals = hits - hits.mean()
    share = (sources[:, None, :, None] == sources[None, :, None, :]).any(axis=(2, 3))
    expected = np.sqrt(residuals @ share @ residuals) / 200
    result = quality(torch.tensor(hits), torch.tensor(sources))
    assert result.stderr == pytest.approx(expected, rel=1e-9)


def test_sources_never_make_the_error_smaller():
    hits = torch.tensor([True, False] * 20)
    pairs = torch.arange(40).div(2, rounding_mode="floor")[:, None]
    assert quality(hits, pairs).stderr == quality(hits).stderr


def test_the_dyadic_error_is_the_spread_and_the_binomial_one_is_too_small():
    """400 repetitions of 600 pairs of 120 items: the spread itself is known to 3.5 percent."""
    rng = np.random.default_rng(0)
    values, dyadic, binomial = [], [], []
    for _ in range(400):
        items = rng.normal(size=120)
        sources = rng.integers(120, size=(600, 2))
        hits = torch.tensor(items[sources].sum(axis=1) + 0.7 * rng.normal(size=600) > -0.5)
        result = quality(hits, torch.tensor(sources))
        values.append(result.value)
        dyadic.append(result.stderr)
        binomial.append(quality(hits).stderr)
    spread = np.std(values)
    assert np.mean(dyadic) == pytest.approx(spread, rel=0.12)
    assert np.mean(binomial) < 0.75 * spread
