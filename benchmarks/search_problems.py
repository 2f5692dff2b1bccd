"""Search problems with a known truth, for `search.py`: qualities are made up, costs are closed forms.

mat: twelve FFNs of four widths (4^12), diminishing returns, depth matters most at both ends, neighbouring
layers share what they add; evaluations are noisy. net27: 27 choices whose quality has the output of a random
network in it. hier: the space `vit_resnas`, blocks of which exist or not, under limits on its exact costs.
mixed50: fifty choices of two to eight options, some of which exist only under others; two latencies, so that
there are three objectives. wide60: sixty choices of two to five options. layers194: a language model of 48
layers, each with four choices. `net27`, `mixed50` and `layers194` are held back: nothing is tuned on them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import search_spaces
from nas.limits import Limit, distance
from search_spaces import Choice, SearchSpace
from search_spaces.space import INACTIVE, Codes

Floats = NDArray[np.float64]
QUALITY = "accuracy"


@dataclass(frozen=True, eq=False)
class Problem:
    """What is searched: accuracy (a share, maximised) against costs (minimised).

    quality: codes -> accuracy without noise (n,).  metrics: codes -> all that is known of them anyway.
    noise: by objective, the standard deviation of what an evaluation adds: to accuracy absolute, to a cost as
    a share of it.
    """

    name: str
    space: SearchSpace
    costs: tuple[str, ...]
    quality: Callable[[Codes], Floats]
    metrics: Callable[[Codes], Mapping[str, Floats]]
    limits: tuple[Limit, ...] = ()
    noise: Mapping[str, float] = field(default_factory=dict)

    @property
    def objectives(self) -> tuple[str, ...]:
        return (QUALITY, *self.costs)

    def outside(self, codes: Codes) -> Floats:
        """How far from keeping the limits, (n,); 0: they are kept."""
        return distance(self.limits, self.metrics(codes), len(codes))

    def within_limits(self, codes: Codes) -> NDArray[np.bool_]:
        kept: NDArray[np.bool_] = self.outside(codes) == 0
        return kept

    def truth(self, codes: Codes) -> Floats:
        """Objectives without noise (n, objectives), all minimised."""
        known = self.metrics(codes)
        return np.stack([-self.quality(codes), *(known[name] for name in self.costs)], axis=1)

    def told(self, codes: Codes, seed: int) -> Floats:
        """Objectives as evaluations give them (n, objectives), all minimised.

        The noise of an architecture depends on it and the seed only: methods are compared in pairs.
        """
        values = self.truth(codes)
        scales = np.array([self.noise.get(name, 0.0) for name in self.objectives])
        if not scales.any():
            return values
        draws = [np.random.default_rng([seed, *(code + 1)]).normal(size=len(scales)) for code in codes]
        noise = scales * np.array(draws).reshape(values.shape)
        noise[:, 1:] *= values[:, 1:]
        told: Floats = values + noise
        return told


def problem(name: str) -> Problem:
    """The made-up problem of that name."""
    return PROBLEMS[name]()


def _space(name: str, choices: Sequence[Choice]) -> SearchSpace:
    return SearchSpace(name, "made_up", tuple(choices), (), {})


def levels(space: SearchSpace, codes: Codes) -> Floats:
    """From 0 (first option) to 1 (last one), (n, choices); 0 where a choice does not exist."""
    counts = np.array([len(choice.options) for choice in space.choices])
    at: Floats = np.where(codes == INACTIVE, 0, codes) / np.maximum(counts - 1, 1)
    return at


def network(rng: np.random.Generator, inputs: int, hidden: int = 32) -> Callable[[Floats], Floats]:
    """A random network of two hidden layers: (n, inputs) between 0 and 1 -> (n,) of about -1 to 1."""
    first = rng.normal(size=(inputs, hidden)) * 2 / np.sqrt(inputs)
    second = rng.normal(size=(hidden, hidden)) * 1.5 / np.sqrt(hidden)
    last = rng.normal(size=hidden) / np.sqrt(hidden)
    shift = rng.normal(size=hidden) / 2
    return lambda at: np.tanh(np.tanh((2 * at - 1) @ first + shift) @ second) @ last


MAT_RATIOS = (0.5, 1.0, 2.0, 4.0)
MAT_LAYERS = 12


def mat_layers() -> tuple[Floats, Floats]:
    """What each FFN width adds to accuracy by layer (layers, widths), and to the latency (widths,) in ms."""
    rng = np.random.default_rng(12)
    place = (np.arange(MAT_LAYERS) - (MAT_LAYERS - 1) / 2) / ((MAT_LAYERS - 1) / 2)
    importance = (0.5 + place**2) * rng.uniform(0.8, 1.2, MAT_LAYERS)
    returns = 1 - np.exp(-0.8 * np.array(MAT_RATIOS))
    return 0.012 * importance[:, None] * returns, 0.06 + 0.11 * np.array(MAT_RATIOS) ** 0.9


def mat_quality(codes: Codes) -> Floats:
    """Accuracy (n,): the sum over the layers, less what neighbours add both."""
    gains, _ = mat_layers()
    added = gains[np.arange(codes.shape[1]), codes]
    quality: Floats = 0.70 + added.sum(axis=1) - 20.0 * (added[:, 1:] * added[:, :-1]).sum(axis=1)
    return quality


def _mat() -> Problem:
    _, ms = mat_layers()
    space = _space("mat", [Choice(f"mlp_ratio.{i}", MAT_RATIOS) for i in range(MAT_LAYERS)])
    return Problem(
        "mat",
        space,
        ("latency_ms",),
        mat_quality,
        lambda codes: {"latency_ms": 1.0 + ms[codes].sum(axis=1)},
        noise={QUALITY: 0.0008, "latency_ms": 0.005},
    )


def _net27() -> Problem:
    rng = np.random.default_rng(27)
    layers = [
        Choice(f"{name}.{i}", options)
        for i in range(12)
        for name, options in (("num_heads", (4, 8, 12)), ("mlp_ratio", (2, 3, 4)))
    ]
    whole = [
        Choice("embed_dim", (192, 384, 768)), Choice("depth", (10, 11, 12)), Choice("bias", (False, True))
    ]  # fmt: skip
    space = _space("net27", [*whole, *layers])
    gain = np.concatenate([[1.5, 0.5, 0.05], rng.uniform(0.02, 0.25, 24)])
    power = rng.uniform(0.4, 1.0, 27)
    net = network(rng, 27)
    heads, ratios = rng.uniform(0.6, 1.0, 12), rng.uniform(1.0, 1.6, 12)

    def quality(codes: Codes) -> Floats:
        at = levels(space, codes)
        return 0.6 + 0.05 * (at**power @ gain + 0.45 * net(at))

    def metrics(codes: Codes) -> dict[str, Floats]:
        at = levels(space, codes)
        blocks = (heads * (1 + 2 * at[:, 3::2]) + ratios * (2 + 2 * at[:, 4::2])).sum(axis=1)
        width = np.array([1.0, 2.0, 4.0])[codes[:, 0]]
        return {
            "latency_ms": 2.0 + 0.1 * width * (10 + codes[:, 1]) / 12 * blocks + 0.05 * width * codes[:, 2]
        }

    return Problem("net27", space, ("latency_ms",), quality, metrics)


def made_up_quality(space: SearchSpace, seed: int) -> Callable[[Codes], Floats]:
    """Accuracy: diminishing returns of every choice that exists, products of pairs, a bit of a network."""
    rng = np.random.default_rng(seed)
    count = len(space.choices)
    gain, power = rng.uniform(0.2, 1.0, count), rng.uniform(0.3, 1.0, count)
    pairs = 0.4 * rng.normal(size=(count, count)) * (rng.random((count, count)) < 3 / count)
    net = network(rng, count)

    def quality(codes: Codes) -> Floats:
        at = np.where(codes == INACTIVE, 0.0, (1 + levels(space, codes)) / 2)
        raw = at**power @ gain + ((at @ pairs) * at).sum(axis=1) + 0.5 * net(at)
        return 0.6 + 0.3 * raw / gain.sum()

    return quality


def _hier() -> Problem:
    space = search_spaces.get("vit_resnas")
    smallest, largest = (space.costs(space.encode([a])) for a in (space.smallest, space.largest))
    within = {
        name: float(smallest[name][0]) + share * float(largest[name][0] - smallest[name][0])
        for name, share in (("params", 0.25), ("macs", 0.35))
    }

    def metrics(codes: Codes) -> dict[str, Floats]:
        known = space.costs(codes)
        return {name: known[name].astype(np.float64) for name in ("params", "macs")}

    limits = tuple(Limit(name, "<=", float(round(value))) for name, value in within.items())
    noise = {QUALITY: 0.0008}
    return Problem("hier", space, ("macs",), made_up_quality(space, 3), metrics, limits, noise)


def _mixed_choices(rng: np.random.Generator) -> list[Choice]:
    """Fifty: ten yes-or-no, five of which decide whether two others exist; forty of two to eight options."""
    choices = [Choice(f"has.{i}", (False, True)) for i in range(10)]
    for i in range(40):
        needs = (f"has.{i // 2}", (True,)) if i < 10 else None
        choices.append(Choice(f"size.{i}", tuple(range(1, int(rng.integers(2, 9)) + 1)), needs))
    return choices


def _mixed50() -> Problem:
    rng = np.random.default_rng(50)
    space = _space("mixed50", _mixed_choices(rng))
    whole = made_up_quality(space, 51)
    hump, peak = rng.uniform(0.0, 0.01, 8), rng.uniform(0.3, 0.7, 8)
    work = rng.uniform(0.05, 0.3, (2, 50))
    floor = rng.uniform(0.0, 0.15, 50)

    def quality(codes: Codes) -> Floats:
        at = levels(space, codes)[:, 42:]
        return whole(codes) - ((at - peak) ** 2 @ hump)

    def metrics(codes: Codes) -> dict[str, Floats]:
        at = np.where(codes == INACTIVE, 0.0, 0.3 + levels(space, codes))
        by_compute = 1.0 + (at @ work[0]) * (1 + 0.5 * at[:, 49])
        by_memory = 0.5 + np.maximum(at * work[1], np.where(at > 0, floor, 0.0)).sum(axis=1)
        return {"latency_ms@a": by_compute, "latency_ms@b": by_memory}

    noise = {QUALITY: 0.0008}
    return Problem("mixed50", space, ("latency_ms@a", "latency_ms@b"), quality, metrics, noise=noise)


def _wide60() -> Problem:
    space = _space("wide60", [Choice(f"size.{i}", tuple(range(2 + i % 4))) for i in range(60)])
    work = np.random.default_rng(1).uniform(0.05, 0.3, 60)

    def metrics(codes: Codes) -> dict[str, Floats]:
        return {"latency_ms": 1 + levels(space, codes) @ work}

    noise = {QUALITY: 0.0008}
    return Problem("wide60", space, ("latency_ms",), made_up_quality(space, 7), metrics, noise=noise)


def _layers194() -> Problem:
    options = {
        "ffn": (512, 1024, 1536, 2048),
        "heads": (4, 8, 12),
        "groups": (1, 2, 4),
        "window": (256, 1024),
    }
    layers = [Choice(f"{name}.{i}", sizes) for i in range(48) for name, sizes in options.items()]
    whole = [Choice("embed_dim", (512, 768, 1024)), Choice("vocabulary", (16_000, 32_000))]
    space = _space("layers194", [*whole, *layers])
    work = np.random.default_rng(194).uniform(0.1, 0.2, 48 * len(options))

    def metrics(codes: Codes) -> dict[str, Floats]:
        at = levels(space, codes)
        return {"latency_ms": (1 + codes[:, 0]) * (4 + 3 * codes[:, 1] + at[:, 2:] @ work)}

    noise = {QUALITY: 0.0008}
    return Problem("layers194", space, ("latency_ms",), made_up_quality(space, 5), metrics, noise=noise)


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "mat": _mat,
    "net27": _net27,
    "hier": _hier,
    "mixed50": _mixed50,
    "wide60": _wide60,
    "layers194": _layers194,
}


def additive_share(made: Problem, count: int = 20_000) -> float:
    """R² of a sum over the choices, fitted to random architectures: how far a ridge could get."""
    codes = made.space.sample_choices(np.random.default_rng(0), count)
    columns = [codes[:, [i]] == range(-1, len(c.options)) for i, c in enumerate(made.space.choices)]
    onehot = np.concatenate(columns, axis=1).astype(np.float64)
    quality = made.quality(codes)
    fitted = onehot @ np.linalg.lstsq(onehot, quality, rcond=None)[0]
    return float(1 - (quality - fitted).var() / quality.var())
