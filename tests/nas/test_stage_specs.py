"""Networks from stage specifications: the ratio is kept, and what is frozen stays."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.stage_specs import StageSpec, reallocate
from search_spaces._errors import UsageError

TINY = ((96, 1), (192, 2), (384, 7), (768, 2))
PARAMS = 27_910_216  # of timm's Hiera-T


def specs(*, frozen_channels: tuple[int, ...] = (), frozen_depths: tuple[int, ...] = ()) -> list[StageSpec]:
    return [
        StageSpec(channels, depth, stage in frozen_channels, stage in frozen_depths)
        for stage, (channels, depth) in enumerate(TINY)
    ]


@pytest.mark.parametrize("metric", ["macs", "params"])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.8, 1.3])
def test_the_target_ratio_is_kept_within_a_fiftieth(metric: str, ratio: float) -> None:
    made = reallocate(specs(), target_ratio=ratio, metric=metric)
    assert abs(made.ratio / ratio - 1) <= 0.02
    parameters = sum(p.numel() for p in made.module.parameters())
    assert parameters == made.space.cost(made.architecture).params
    if metric == "params":
        assert abs(parameters / PARAMS / ratio - 1) <= 0.02


def test_the_ratio_of_macs_is_that_of_the_modules() -> None:
    counts = []
    for ratio in (1.0, 0.6):
        module = reallocate(specs(), target_ratio=ratio, metric="flops").module.eval()
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            module(torch.zeros(1, 3, 224, 224))
        counts.append(counter.get_total_flops() // 2)
    assert counts[0] == 4_900_830_720
    assert abs(counts[1] / counts[0] / 0.6 - 1) <= 0.02


def test_widths_need_be_no_powers_of_two() -> None:
    made = reallocate([StageSpec(*spec) for spec in ((40, 3), (84, 4), (176, 7), (372, 3))], target_ratio=0.5)
    assert abs(made.ratio / 0.5 - 1) <= 0.02


def test_the_specifications_that_come_back_are_those_of_the_module() -> None:
    made = reallocate(specs(), target_ratio=0.5)
    config = made.module.config
    assert [spec.channels for spec in made.specs] == config["embed_dim"]
    assert [spec.depth for spec in made.specs] == config["depth"]
    assert len(made.module.blocks) == sum(spec.depth for spec in made.specs)
    with torch.inference_mode():
        assert made.module(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_what_is_frozen_stays() -> None:
    made = reallocate(specs(frozen_channels=(1, 3), frozen_depths=(0, 2)), target_ratio=0.7)
    assert [made.specs[i].channels for i in (1, 3)] == [192, 768]
    assert [made.specs[i].depth for i in (0, 2)] == [1, 7]
    assert (made.specs[0].channels, made.specs[2].channels) != (96, 384)
    assert abs(made.ratio / 0.7 - 1) <= 0.02


def test_the_whole_cost_gives_the_specifications_back() -> None:
    assert reallocate(specs(), target_ratio=1.0).specs == tuple(specs())


def test_free_widths_shrink_alike() -> None:
    made = reallocate(specs(frozen_depths=(0, 1, 2, 3)), target_ratio=0.5)
    shrunk = [spec.channels / channels for spec, (channels, _) in zip(made.specs, TINY, strict=True)]
    assert max(shrunk) - min(shrunk) < 0.1
    assert [spec.depth for spec in made.specs] == [depth for _, depth in TINY]


def test_the_same_seed_gives_the_same_network() -> None:
    first, second = (reallocate(specs(), target_ratio=0.6, seed=3) for _ in range(2))
    assert first.specs == second.specs
    for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (specs(), {"target_ratio": 0.5, "metric": "watts"}, "'watts'"),
        (specs(), {"target_ratio": "half"}, "target_ratio"),
        (specs()[:1], {"target_ratio": 0.5}, "1 stages"),
        (specs(), {"target_ratio": 0.0}, "target_ratio"),
        (specs(), {"target_ratio": float("nan")}, "target_ratio"),
        (specs(), {"target_ratio": 1e-4}, "No widths and depths"),
        (specs(frozen_channels=(0, 1, 2, 3), frozen_depths=(0, 1, 2, 3)), {"target_ratio": 0.5}, "No widths"),
        ([StageSpec(96, 0), *specs()[1:]], {"target_ratio": 0.5}, "no blocks"),
    ],
)
def test_impossible_requests_are_refused(given, options, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        reallocate(given, **options)
    assert message in caught.value.message
