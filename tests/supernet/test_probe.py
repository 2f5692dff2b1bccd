"""Probing: what is recorded of every block is what the block does."""

from typing import Any

import elastic_nets
import pytest
import torch
from torch.nn import functional as F

import search_spaces
import supernet
from search_spaces import Architecture
from supernet.evaluation.probe import Probing, probe
from supernet.supernet import Supernet


def probed(net: Supernet, arch: Architecture) -> Probing:
    x = net.example_input(6)
    labels = torch.arange(6) % net.space.options["num_classes"]
    return probe(net, arch, x, labels)


@pytest.mark.parametrize("name", ["matformer", "vit_resnas", "turbovit_digit_pairs"])
def test_every_stage_reacts_and_blocks_can_be_left_out(name: str) -> None:
    net = supernet.build(search_spaces.get(name), seed=0)
    found = probed(net, net.space.largest)
    module: Any = net.plain(net.space.largest)
    assert list(found.reactions) == [name for name, _ in module.stages()]
    assert all(reaction.rms > 0 and reaction.rank >= 1 for reaction in found.reactions.values())
    assert found.reactions["stem"].bypass is None
    assert found.reactions["head"].bypass is None
    assert sum(reaction.bypass is not None for reaction in found.reactions.values()) >= 4


def test_the_loss_and_a_bypass_are_those_of_the_network() -> None:
    net = elastic_nets.net()
    arch = net.space.largest
    found, x = probed(net, arch), net.example_input(6)
    module: Any = net.extract(arch)
    labels = torch.arange(6) % 5
    with torch.inference_mode():
        loss = F.cross_entropy(module(x), labels).item()
        assert found.loss == pytest.approx(loss, abs=1e-6)
        for left_out in ("blocks.0", "blocks.2"):
            y = x
            for name, stage in module.stages():
                y = y if name == left_out else stage(y)
            rise = F.cross_entropy(y, labels).item() - loss
            assert found.reactions[left_out].bypass == pytest.approx(rise, abs=1e-6)


def test_a_block_that_does_nothing_does_not_react() -> None:
    net = elastic_nets.net()
    block: Any = net.shared.get_submodule("blocks.1")
    with torch.no_grad():
        for parameter in (*block.attn.proj.parameters(), *block.mlp.fc2.parameters()):
            parameter.zero_()
    reactions = probed(net, net.space.largest).reactions
    assert reactions["blocks.1"].bypass == pytest.approx(0, abs=1e-6)
    assert abs(reactions["blocks.0"].bypass or 0) > 1e-3


def test_the_rank_counts_directions() -> None:
    from supernet.evaluation.probe import effective_rank  # noqa: PLC0415 - a formula with known values

    assert effective_rank(torch.eye(4)[None]) == pytest.approx(4)
    assert effective_rank(torch.ones(3, 4, 5)) == pytest.approx(1, abs=1e-3)
    two = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]]])
    assert effective_rank(two) == pytest.approx(2, abs=1e-4)


def test_probing_leaves_the_weights_as_they_are() -> None:
    net = elastic_nets.net()
    before = {name: tensor.clone() for name, tensor in net.shared.state_dict().items()}
    probed(net, net.space.smallest)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.shared.state_dict().items())
