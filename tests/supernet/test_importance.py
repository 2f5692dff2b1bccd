"""Sorting by importance: the network stays what it was, and its prefixes become better."""

from typing import Any

import pytest
import torch
from elastic_nets import FEATURES, net
from torch import Tensor

from supernet.importance import sort_by_importance
from supernet.plain.vit import ViT
from supernet.supernet import Supernet

KINDS = {
    name: FEATURES[name] for name in ("bare", "gated", "scaled", "clip", "no biases", "normed conv stem")
}
kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())


def planted(options: dict[str, Any]) -> tuple[Supernet, Tensor]:
    """A network whose first half of neurons and of heads hardly matters, in every layer, and inputs."""
    elastic = net(**(options | {"depth": (2,), "embed_dim": (16,), "per_layer": ("mlp_ratio",)}))
    assert isinstance(elastic.shared, ViT)
    with torch.no_grad():
        for block in elastic.shared.blocks:
            hidden, inner = block.mlp.fc2.in_features, block.attn.proj.in_features
            block.mlp.fc2.weight[:, : hidden // 2] *= 0.01
            block.attn.proj.weight[:, : inner // 2] *= 0.01
    return elastic, elastic.example_input(16)


@kinds
def test_the_full_network_is_unchanged(options: dict[str, Any]):
    elastic, x = planted(options)
    before = {name: p.detach().clone() for name, p in elastic.shared.named_parameters()}
    with torch.no_grad():
        expected = elastic.shared(x)
        sort_by_importance(elastic, [x])
        torch.testing.assert_close(elastic.shared(x), expected, rtol=1e-5, atol=1e-5)
    for name, parameter in elastic.shared.named_parameters():
        moved = any(
            part in name for part in (".mlp.fc1.", ".mlp.fc2.weight", ".attn.qkv.", ".attn.proj.weight")
        )
        assert moved != torch.equal(parameter, before[name]), name
        assert torch.equal(parameter.flatten().sort().values, before[name].flatten().sort().values), name


@kinds
@pytest.mark.parametrize("smaller", [{"mlp_ratio": [2, 2]}, {"num_heads": 2}], ids=["neurons", "heads"])
def test_half_a_network_comes_closer_to_the_whole(options: dict[str, Any], smaller: dict[str, Any]):
    elastic, x = planted(options)
    half = elastic.space.architecture(elastic.space.largest.to_dict() | smaller)

    def distance() -> float:
        with torch.no_grad():
            return float((elastic(x, half) - elastic.shared(x)).norm())

    before = distance()
    sort_by_importance(elastic, [x])
    assert distance() < 0.3 * before


@kinds
def test_the_order_is_that_of_the_definition(options: dict[str, Any]):
    """On the first block, with the contributions of neurons and heads computed one at a time."""
    elastic, x = planted(options)
    assert isinstance(elastic.shared, ViT)
    block = elastic.shared.blocks[0]
    with torch.no_grad():
        tokens = elastic.shared.embed(x)
        y = block.norm1(tokens)
        neurons = block.mlp.hidden(block.norm2(tokens + block.ls1(block.attn(y))))
        columns = block.mlp.fc2.weight.clone()
        order = (neurons.abs().mean(dim=(0, 1)) * columns.norm(dim=0)).argsort(descending=True)
        proj = block.attn.proj.weight.clone()
        block.attn.proj.weight.zero_()
        nothing, added = block.attn(y), []
        for head in range(4):
            own = slice(4 * head, 4 * head + 4)
            block.attn.proj.weight[:, own] = proj[:, own]
            added.append((block.attn(y) - nothing).norm(dim=-1).mean())
            block.attn.proj.weight.zero_()
        block.attn.proj.weight.copy_(proj)
        heads = torch.stack(added).argsort(descending=True)
        sort_by_importance(elastic, [x])
        assert torch.equal(block.mlp.fc2.weight, columns[:, order])
        assert torch.equal(block.attn.proj.weight, proj.unflatten(1, (4, 4))[:, heads].flatten(1))


def test_batches_add_up():
    whole, x = planted(FEATURES["bare"])
    parts, _ = planted(FEATURES["bare"])
    sort_by_importance(whole, [x])
    sort_by_importance(parts, iter(x.split(4)))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert all(not m._forward_pre_hooks for m in whole.modules())
