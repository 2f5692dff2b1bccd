"""Which layers of a decoder are left out first: by the loss without each of them."""

import pytest
import torch
from torch import Tensor

import search_spaces
import supernet
from supernet import tasks
from supernet.families.matlm import layer_order
from supernet.importance import losses_without
from supernet.plain.decoder import Decoder
from supernet.tasks.language import NO_TARGET
from tests.made_decoders import TINY, drawn

TASK = tasks.get("language")


def a_decoder() -> Decoder:
    net = drawn(Decoder(**TINY | {"num_heads": [4] * 4, "mlp_hidden": [24] * 4}))
    assert isinstance(net, Decoder)
    return net


def texts(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randint(61, (5, 12), generator=torch.Generator().manual_seed(seed))
    targets = x.roll(-1, dims=1)
    targets[0, 7:] = NO_TARGET
    return x, targets


@torch.no_grad()
def test_losses_are_those_of_the_subnets_without_a_layer() -> None:
    net, batches = a_decoder(), [texts(0), texts(1)]
    losses = losses_without(net, batches, TASK)
    numbers = {"vocabulary": 61, "context": 12, "head_dim": 8, "heads_per_kv": 2, "norm_eps": 1e-6}
    for layer, loss in enumerate(losses):
        space = search_spaces.get(
            "matlm", embed_dim=[16], depth=[4], num_heads=[4], mlp_hidden=[24], optional=[layer], **numbers
        )
        elastic = supernet.build(space)
        elastic.shared.load_state_dict(net.state_dict())
        subnet = elastic.extract(space.smallest)
        scores = torch.cat([TASK.scores(subnet(x), targets) for x, targets in batches])
        assert loss == float(scores.double().mean())


@pytest.mark.parametrize("useless", range(4))
def test_a_layer_that_does_nothing_is_left_out_first(useless: int) -> None:
    net = a_decoder()
    block = net.blocks[useless]
    with torch.no_grad():
        for name, weight in block.named_parameters():
            if name in ("attn.proj.weight", "mlp.fc2.weight"):
                weight.zero_()
        x, _ = texts(0)
        targets = net(x).argmax(dim=-1)  # what the whole network says
    order = layer_order(net, [(x, targets)], TASK)
    assert order[0] == useless
    assert sorted(order) == list(range(4))
    losses = losses_without(net, [(x, targets)], TASK)
    assert order == sorted(range(4), key=lambda layer: losses[layer])


def test_of_equal_layers_the_last_is_left_out_first() -> None:
    net = a_decoder()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
                weight.zero_()
    assert layer_order(net, [texts(0)], TASK) == [3, 2, 1, 0]
