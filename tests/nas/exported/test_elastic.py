"""One set of weights for a front: subnets as views of it, chosen by budgets, kept within deadlines."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import search_spaces
import supernet
from benchmarks import elastic as simulation
from nas.errors import ConflictError, JobFailedError
from nas.exported import elastic as writing
from nas.exported.elastic import ElasticMember, export_elastic
from nas.exported.elastic_runtime import Adaptive, Elastic
from nas.exported.sums import verify
from supernet.supernet import Supernet

SPACES: dict[str, dict[str, Any]] = {
    "matformer": {},
    "autoformer": {},
    "vit_resnas": {},
    "turbovit_digit_pairs": {},
    "stitching": {},
    "matlm": {"context": 16, "embed_dim": [16], "depth": [1, 2], "num_heads": [2, 4], "mlp_hidden": [16, 32]},
}
INFO = {"job": "made", "metric": "accuracy", "goal": "max", "inputs": "made inputs"}


def built(name: str) -> Supernet:
    return supernet.build(search_spaces.get(name, **SPACES[name]), seed=0).eval()


def members(net: Supernet) -> list[ElasticMember]:
    """The smallest, one between, and the largest; the larger the better, and the slower."""
    archs = [net.space.smallest, *net.space.uniform(3)[1:2], net.space.largest]
    return [
        ElasticMember(
            arch,
            {
                "key": arch.key,
                "quality": i / 10,
                "stderr": 0.01,
                "params": net.space.cost(arch).params,
                "macs": net.space.cost(arch).macs,
                "latency_ms": {"cpu": 2.0 * (i + 1)},
            },
        )
        for i, arch in enumerate(dict.fromkeys(archs))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net, target = built("matformer"), tmp_path_factory.mktemp("nets") / "it"
    with pytest.MonkeyPatch.context() as patched:  # that outputs are right is asked below
        patched.setattr(writing, "_checked", lambda *_: 0.0)
        export_elastic(net, members(net), target, example=net.example_input(3), info=INFO)
    return target


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "matformer" else pytest.mark.slow) for n in SPACES]
)
def test_every_subnet_has_the_supernets_outputs(name: str, tmp_path: Path) -> None:
    net, target = built(name), tmp_path / "it"
    export_elastic(net, members(net), target, example=net.example_input(3), info=INFO)
    assert set(verify(target).values()) == {"ok"}
    assert len({path.stat().st_mode for path in target.iterdir()}) == 1  # who reads one file reads all
    elastic = Elastic.load(target)
    x = net.example_input(3)
    with torch.no_grad():
        for member in members(net):
            exact = elastic.use(member.facts["key"], exact=True)(x)
            assert torch.equal(exact, net.extract(member.arch)(x))
            torch.testing.assert_close(elastic.use(member.facts["key"])(x), exact, rtol=1e-4, atol=1e-5)
    apart = sum(t.nbytes for m in members(net) for t in net.extract(m.arch).state_dict().values())
    shared = sum(t.nbytes for t in elastic._weights.values())
    assert shared < apart or name == "stitching"  # whose largest anchors have nothing in common


def test_the_largest_is_nothing_but_views(folder: Path) -> None:
    elastic = Elastic.load(folder)
    elastic.use(elastic.members[-1]["key"])
    assert elastic.copied_bytes() == 0
    first = elastic.use(params=1e9)
    assert elastic.use(params=1e9) is first


def test_budgets_choose(folder: Path) -> None:
    elastic = Elastic.load(folder)
    keys = [member["key"] for member in elastic.members]
    assert elastic.choose(latency_ms=4.5)["key"] == keys[1]
    assert elastic.choose(latency_ms=4.5, device="cpu")["key"] == keys[1]
    assert elastic.choose(latency_ms=100, params=elastic.members[0]["params"])["key"] == keys[0]
    assert elastic.choose()["key"] == keys[-1]
    with pytest.warns(UserWarning, match="the cheapest is taken"):
        assert elastic.choose(latency_ms=0.1)["key"] == keys[0]
    with pytest.raises(ValueError, match="no subnet is within"):
        elastic.choose(latency_ms=0.1, strict=True)
    with pytest.raises(KeyError, match="no device 'gpu', but cpu"):
        elastic.choose(latency_ms=1, device="gpu")
    with pytest.raises(KeyError, match="0 subnets have a key"):
        elastic.choose("nobody")
    with pytest.raises(ValueError, match="give a key, or limits"):
        elastic.choose(keys[0], params=1)


def test_a_deadline_is_kept_while_the_machine_is_slow_and_nothing_flaps(folder: Path) -> None:
    adaptive = Elastic.load(folder).adapt(7.0)
    chosen = []
    for slowness in [1.0] * 10 + [3.0] * 30 + [1.0] * 60:
        chosen.append(adaptive.member["latency_ms"]["cpu"])
        adaptive.told(slowness * chosen[-1])
    assert chosen[:10] == [6.0] * 10
    assert chosen[11:40] == [2.0] * 29  # 2 ms take 6, and 4 would take 12
    assert chosen[-20:] == [6.0] * 20
    assert sum(a != b for a, b in pairwise(chosen)) <= 3


@pytest.mark.parametrize("seed", range(3))
def test_more_deadlines_are_kept_than_by_fixed_subnets_of_the_same_quality(seed: int) -> None:
    members, slowness = simulation.made_members(), simulation.made_slowness(seed, 1500)
    for deadline_ms in (4.0, 8.0, 16.0):
        alone = [simulation.fixed(member, deadline_ms, slowness) for member in members]
        ours = simulation.adapted(members, deadline_ms, slowness)
        assert ours.share > 1.05 * simulation.mixed(alone, ours.quality)


def test_what_wavers_around_a_border_does_not_flap() -> None:
    """A moment that is now a tenth slower, now a tenth faster than what the dearer subnet has room for."""
    members = simulation.made_members()
    deadline_ms = 1.02 * members[5]["latency_ms"]["made"]
    wavering = [1.0 if number % 2 else 0.9 for number in range(1000)]
    assert simulation.adapted(members, deadline_ms, wavering).switches <= 3
    drawn = [float(one) for one in np.random.default_rng(0).lognormal(0, 0.05, 1000)]
    assert simulation.adapted(members, deadline_ms, drawn).switches <= 150
    assert simulation.adapted(members, deadline_ms, [1.0] * 1000).switches == 0


def test_one_slow_run_costs_few_dear_ones() -> None:
    members = simulation.made_members()
    adaptive = Adaptive(Elastic({"goal": "max", "members": members}, {}, None), 16.0, None)
    assert adaptive.member["key"] == members[-1]["key"]
    adaptive.told(20 * members[-1]["latency_ms"]["made"])
    assert adaptive.member["key"] == members[0]["key"]
    used = []
    while adaptive.member["key"] != members[-1]["key"] and len(used) < 100:
        used.append(adaptive.member["latency_ms"]["made"])
        adaptive.told(used[-1])
    assert 3 <= len(used) <= 30


def test_a_run_with_a_deadline_of_its_own(folder: Path) -> None:
    elastic = Elastic.load(folder)
    adaptive = elastic.adapt(7.0)
    keys = [member["key"] for member in elastic.members]
    assert [adaptive.member_for(ms)["key"] for ms in (100, 5, 0.1, -1)] == [
        keys[2],
        keys[1],
        keys[0],
        keys[0],
    ]
    adaptive.told(2 * 2.0, elastic.members[0])  # twice as slow, told of the cheapest
    assert adaptive.slowness == 2.0
    assert adaptive.member_for(5)["key"] == keys[0]


def test_a_mixture_of_fixed_subnets_has_the_quality_that_is_asked_for() -> None:
    alone = [simulation.Outcome(1.0, 0.5), simulation.Outcome(0.5, 0.7), simulation.Outcome(0.0, 0.9)]
    assert simulation.mixed(alone, 0.6) == pytest.approx(0.75)
    assert simulation.mixed([*alone, simulation.Outcome(0.9, 0.7)], 0.7) == pytest.approx(0.9)
    assert simulation.at_least(alone, 0.6).quality == 0.7


def test_images_continue_no_text(folder: Path) -> None:
    with pytest.raises(ValueError, match="they continue no text"):
        Elastic.load(folder).decode()


def test_the_folder_needs_nothing_of_ours(folder: Path) -> None:
    code = (
        "import sys\n"
        "from elastic import Elastic\n"
        "assert Elastic.load().use(params=1e9).training is False\n"
        "assert not {'nas', 'supernet', 'search_spaces'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-B", "-c", code], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    listed = subprocess.run(
        [sys.executable, "-B", "elastic.py"], cwd=folder, capture_output=True, text=True, check=True
    )
    described = json.loads((folder / "elastic.json").read_text())
    assert len(listed.stdout.splitlines()) == len(described["members"])


def test_damaged_weights_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "it")
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: model.safetensors by its SHA256SUMS"):
        Elastic.load(copy)


def test_other_outputs_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = built("matformer")
    union = writing._union

    def wrong(*parts: Any) -> dict[str, torch.Tensor]:
        weights = union(*parts)
        weights["head.bias"] = weights["head.bias"] + 1e-3
        return weights

    monkeypatch.setattr(writing, "_union", wrong)
    with pytest.raises(JobFailedError, match=r"has other outputs on the shared weights"):
        export_elastic(net, members(net), tmp_path / "it", example=net.example_input(3), info=INFO)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "mine").touch()
    with pytest.raises(ConflictError):
        export_elastic(net, members(net), tmp_path / "it", example=net.example_input(3), info=INFO)
