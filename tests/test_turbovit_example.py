"""The TurboViT example, trained for a third of the time: a front, and a generator that answers requests."""

from pathlib import Path

import pytest

import nas
from nas.config import load_config, merged
from nas.generation import generate
from nas.limits import Limit
from nas.results import frames

EXAMPLE = Path(__file__).parents[1] / "examples" / "turbovit.yaml"
SHORTER = ("train.steps=800", "search.evaluations=64", "search.finalists=8")


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_generator_of_the_example_answers_requests(tmp_path: Path) -> None:
    config = load_config(EXAMPLE, SHORTER, environment={})
    handle = nas.run(merged(config), store=f"sqlite:///{tmp_path / 'store.sqlite'}")
    members = handle.front().members
    assert members[-1].quality > members[0].quality + 0.05
    curve = frames.events(handle.store, handle.job, "generator")
    assert curve["best"].dropna().is_monotonic_increasing
    assert curve["feasible_rate"].iloc[-1] >= 0.8
    macs = sorted(subnet.macs for subnet in handle.store.subnets(handle.job))
    middle = Limit("macs", "<=", float(macs[len(macs) // 2]))
    made = generate(handle.store, handle.job, [middle], 10)
    assert made.feasible_rate >= 0.8
    assert len(made.subnets) == 10
    assert all(subnet.macs <= middle.value for subnet in made.subnets)
    module = handle.extract(arch=made.subnets[0].architecture)
    assert sum(p.numel() for p in module.parameters()) == made.subnets[0].params
