"""The trie over the stages equals plain evaluation and shares work; standard errors are right."""

from collections.abc import Callable, Hashable, Iterator

import numpy as np
import pytest
import torch
from elastic_nets import FEATURES, net
from torch import Tensor

from search_spaces import Architecture
from supernet._base import Supernet
from supernet._evaluate import correct, quality

Steps = Iterator[tuple[Hashable, Callable[[Tensor], Tensor]]]


def batches(elastic: Supernet) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    shape = elastic.example_input(1).shape[1:]
    return [
        (torch.randn(n, *shape, generator=generator), torch.randint(5, (n,), generator=generator))
        for n in (6, 3)
    ]


@pytest.mark.parametrize("options", FEATURES.values(), ids=FEATURES.keys())
def test_the_steps_are_the_forward_pass(options):
    elastic = net(**options)
    rng = np.random.default_rng(0)
    x = elastic.example_input(2)
    for arch in (elastic.space.smallest, elastic.space.sample(rng), elastic.space.largest):
        out = x
        for _, stage in elastic.steps(arch):
            out = stage(out)
        assert torch.equal(out, elastic(x, arch))


@pytest.mark.parametrize("name", ["bare", "heads per layer", "one choice for all layers", "conv stem"])
def test_equal_prefixes_of_keys_mean_equal_work(name: str):
    """The law that the trie rests on, checked on the values: same keys so far, same tensor so far."""
    elastic = net(**FEATURES[name])
    rng = np.random.default_rng(0)
    archs = {elastic.space.sample(rng) for _ in range(12)}
    seen: dict[tuple[Hashable, ...], Tensor] = {}
    for arch in archs:
        x, path = elastic.example_input(1), ()
        for key, stage in elastic.steps(arch):
            x, path = stage(x), (*path, key)
            assert torch.equal(seen.setdefault(path, x), x)


def test_sharing_changes_no_answer_and_saves_stages(monkeypatch: pytest.MonkeyPatch):
    elastic = net(embed_dim=(8,), num_heads=(2, 4), mlp_ratio=(1, 2))
    rng = np.random.default_rng(1)
    archs = list(dict.fromkeys(elastic.space.decode(elastic.space.sample_choices(rng, 24))))
    data = batches(elastic)
    plain = {
        arch: torch.cat([elastic.extract(arch)(x).argmax(dim=-1) == labels for x, labels in data])
        for arch in archs
    }
    calls = 0
    original = elastic.steps

    def counted(arch: Architecture) -> Steps:
        for key, stage in original(arch):

            def call(x: Tensor, stage: Callable[[Tensor], Tensor] = stage) -> Tensor:
                nonlocal calls
                calls += 1
                return stage(x)

            yield key, call

    monkeypatch.setattr(elastic, "steps", counted)
    hits = correct(elastic, archs, data)
    assert list(hits) == archs
    assert all(torch.equal(hits[arch], plain[arch]) for arch in archs)
    paths = [[key for key, _ in original(arch)] for arch in archs]
    distinct = {tuple(path[: i + 1]) for path in paths for i in range(len(path))}
    assert calls == len(data) * len(distinct)
    assert calls < 0.8 * len(data) * sum(len(path) for path in paths)


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
