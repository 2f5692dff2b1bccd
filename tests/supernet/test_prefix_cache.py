"""The cache keeps to its budget and drops what is cheap to compute again, large, or long unused."""

import numpy as np
import pytest

from supernet.evaluation.prefix_cache import PrefixCache


def test_a_value_comes_back_and_others_do_not() -> None:
    cache = PrefixCache(10)
    cache.put("a", "value", size=10, cost=1)
    assert cache.get("a") == "value"
    assert cache.get("b") is None
    assert (cache.hits, cache.misses, cache.used, len(cache)) == (1, 1, 10, 1)


def test_equal_cost_per_byte_is_least_recently_used() -> None:
    cache = PrefixCache(3)
    for key in "abc":
        cache.put(key, key, size=1, cost=1)
    cache.get("a")
    cache.put("d", "d", size=1, cost=1)
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]


def test_what_is_dear_outlives_what_is_cheap_and_small_what_is_large() -> None:
    cache = PrefixCache(12)
    cache.put("dear", 0, size=4, cost=40)
    cache.put("cheap", 1, size=4, cost=4)
    cache.put("large", 2, size=4, cost=2)
    cache.put("new", 3, size=8, cost=16)
    assert [cache.get(key) is not None for key in ("dear", "cheap", "large", "new")] == [
        True,
        False,
        False,
        True,
    ]


def test_what_is_dear_goes_too_when_nobody_uses_it() -> None:
    cache = PrefixCache(4)
    cache.put("dear", 0, size=1, cost=5)
    for i in range(40):
        cache.put(i, i, size=1, cost=1)
    assert cache.get("dear") is None


def test_what_exceeds_the_budget_is_not_kept_and_drops_nothing() -> None:
    cache = PrefixCache(5)
    cache.put("a", 0, size=5, cost=1)
    cache.put("b", 1, size=6, cost=100)
    assert (cache.get("a"), cache.get("b")) == (0, None)


@pytest.mark.parametrize("seed", range(3))
def test_the_budget_holds_at_any_time_and_bookkeeping_does_not_grow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cache = PrefixCache(500)
    sizes: dict[int, int] = {}
    for _ in range(3000):
        key = int(rng.zipf(1.4) % 200)
        if cache.get(key) is None:
            sizes.setdefault(key, int(rng.integers(1, 60)))
            cache.put(key, key, size=sizes[key], cost=float(rng.integers(1, 9)))
        held = [entry.size for entry in cache._entries.values()]
        assert sum(held) == cache.used <= 500
        assert len(cache._queue) <= 4 * len(cache) + 66
    assert cache.hits > 1000
