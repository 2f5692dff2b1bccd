"""The plain decoder against transformers, in both directions, and as a supernet: sorted, nested, cut."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
import supernet
from predictors.devices import torch_cpu
from search_spaces.errors import UsageError
from search_spaces.families.matlm import layer_values
from search_spaces.shapes.decoder import kv_elements
from search_spaces.workloads import as_run
from supernet.families.matlm import nested_options
from supernet.importance import sort_by_importance
from supernet.plain.decoder import Decoder, DecodeStep
from supernet.supernet import Supernet
from supernet.training.channel_sorting import orders, sort_by_magnitude
from tests.made_decoders import KINDS, TINY, drawn, of_transformers, renamed

kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@torch.no_grad()
def test_outputs_are_those_of_transformers(kind: str) -> None:
    config = TINY | KINDS[kind]
    plain, theirs = drawn(Decoder(**config)), of_transformers(kind, config).eval()
    missing, unexpected = theirs.load_state_dict(renamed(plain.state_dict()), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if config.get("tied", True) else [], [])
    theirs.tie_weights()  # type: ignore[operator]
    for tokens in (1, 5, 12):
        x = torch.randint(61, (3, tokens), generator=torch.Generator().manual_seed(tokens))
        torch.testing.assert_close(plain(x), theirs(x).logits, rtol=1e-5, atol=1e-5)
    parameters = sum(p.numel() for p in theirs.parameters())
    assert sum(p.numel() for p in plain.parameters()) == parameters
    space = search_spaces.get("matlm", **nested_options(plain))
    assert space.cost(space.largest).params == parameters


@torch.no_grad()
def test_no_token_sees_those_behind_it() -> None:
    net = drawn(Decoder(**TINY))
    x = torch.randint(61, (2, 12), generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 7:] = (x[:, 7:] + 1) % 61
    before, after = net(x), net(other)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7], after[:, 7])
    torch.testing.assert_close(net(x[:, :7]), before[:, :7])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [1, 2, 12])
@torch.no_grad()
def test_a_step_of_decoding_gives_the_last_logits_of_the_whole_text(kind: str, context: int) -> None:
    net = drawn(Decoder(**TINY | KINDS[kind] | {"num_heads": [4, 2]}))
    assert isinstance(net, Decoder)
    x = torch.randint(61, (3, context), generator=torch.Generator().manual_seed(context))
    step = DecodeStep(net, batch=3, context=context).eval()
    step.remember(x[:, :-1])
    expected = net(x)[:, -1:]
    for _ in range(2):  # the second one finds the last token's place written
        torch.testing.assert_close(step(x[:, -1:]), expected, rtol=1e-5, atol=1e-5)
    other = (x[:, -1:] + 1) % 61
    assert not torch.allclose(step(other), expected)


@pytest.mark.parametrize("workload", [None, {"prefill": 5}, {"decode": {"context": 9}}])
def test_what_is_counted_of_a_workload_is_what_a_device_runs(workload: dict[str, Any] | None) -> None:
    net = elastic()
    space, x = as_run(net.space, workload), net.run_input(workload, 2)
    for arch in (net.space.smallest, net.space.largest):
        module = net.as_run(arch, workload, 2)
        with FlopCounterMode(display=False) as counter:
            module(x)
        assert counter.get_total_flops() == 2 * 2 * space.cost(arch).macs
        # What is remembered are no parameters.
        assert sum(p.numel() for p in module.parameters()) == space.cost(arch).params
        remembered = sum(b.numel() for b in module.buffers())
        features = space.totals(space.encode([arch]), kv_elements)
        assert remembered == (2 * int(features[0, 0]) if workload and "decode" in workload else 0)


@pytest.mark.parametrize("precision", torch_cpu.PRECISIONS)
def test_a_step_of_decoding_is_timed(precision: str) -> None:
    net, workload = elastic(), {"decode": {"context": 9}}
    device = torch_cpu.build(batch=2, precision=precision)
    module, x = net.as_run(net.space.largest, workload, 2), net.run_input(workload, 2)
    with torch.no_grad():
        before = module(x)
    with device.session(), device.prepare(module, x) as run:
        assert device.time(run).seconds > 0
    with torch.no_grad():
        assert torch.equal(module(x), before)


def elastic(**options: Any) -> Supernet:
    fixed: dict[str, Any] = {
        "vocabulary": 61,
        "context": 12,
        "embed_dim": (8, 16),
        "depth": (3,),
        "head_dim": 4,
    }
    fixed |= {"num_heads": (2, 4, 6), "heads_per_kv": 2, "mlp_hidden": (8, 16), "qkv_bias": True}
    net = supernet.build(search_spaces.get("matlm", **(fixed | options)), seed=0).eval()
    drawn(net.shared)
    return net


@torch.no_grad()
def test_a_subnet_is_what_slicing_by_hand_gives() -> None:
    net = elastic(depth=(2, 3), order=(1,))
    arch = net.space.architecture({"embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_hidden": [8, None, 16]})
    assert layer_values(net.space, arch) == [(0, 2, 8), (2, 2, 16)]
    subnet, whole = dict(net.extract(arch).state_dict()), net.shared.state_dict()
    gate, up = whole["blocks.0.mlp.fc1.weight"].chunk(2)
    assert torch.equal(subnet["blocks.0.mlp.fc1.weight"], torch.cat([gate[:8, :8], up[:8, :8]]))
    assert torch.equal(subnet["blocks.0.mlp.fc2.weight"], whole["blocks.0.mlp.fc2.weight"][:8, :8])
    for side, rows in {"q": 8, "k": 4, "v": 4}.items():
        name = f"attn.{side}_proj"
        assert torch.equal(subnet[f"blocks.1.{name}.weight"], whole[f"blocks.2.{name}.weight"][:rows, :8])
        assert torch.equal(subnet[f"blocks.1.{name}.bias"], whole[f"blocks.2.{name}.bias"][:rows])
    assert torch.equal(subnet["blocks.1.attn.proj.weight"], whole["blocks.2.attn.proj.weight"][:8, :8])
    assert torch.equal(subnet["embed.weight"], whole["embed.weight"][:, :8])


@torch.no_grad()
def test_a_layer_that_is_left_out_passes_everything_on() -> None:
    net = elastic(optional=(1,), embed_dim=(16,))
    full = dict(net.space.largest.values)
    without = net.space.architecture(
        {name: value for name, value in full.items() if name != "mlp_hidden.1"} | {"exists.1": False}
    )
    x = net.example_input(2)
    before = net(x, without)
    block = net.shared.blocks[1]  # type: ignore[index]
    assert not torch.allclose(net(x, net.space.largest), before)
    block.attn.proj.weight.zero_()
    block.mlp.fc2.weight.zero_()
    torch.testing.assert_close(net(x, net.space.largest), before)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "qkv_bias": False}, {"gated": False}])
@torch.no_grad()
def test_sorting_changes_nothing_but_the_order(options: dict[str, Any]) -> None:
    net = elastic(**options)
    x = net.example_input(4)
    for sort in (lambda: net.adapt([x]), lambda: sort_by_magnitude(net.shared, lambda _: ())):
        before, smallest = net.shared(x), net(x, net.space.smallest)
        state = {name: p.detach().clone() for name, p in net.shared.named_parameters()}
        sort()
        torch.testing.assert_close(net.shared(x), before, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(net(x, net.space.smallest), smallest)
        for name, parameter in net.shared.named_parameters():
            assert torch.equal(parameter.flatten().sort().values, state[name].flatten().sort().values), name


@torch.no_grad()
def test_neurons_are_sorted_by_what_they_add_and_heads_in_their_groups() -> None:
    net = elastic()
    block, x = net.shared.blocks[0], net.example_input(4)  # type: ignore[index]
    block.attn.proj.weight[:, :8] *= 0.01
    tokens = net.shared.embed(x)  # type: ignore[operator]
    hidden = block.mlp.hidden(block.norm2(block.attended(tokens)))
    columns = block.mlp.fc2.weight.clone()
    neurons = (hidden.abs().double().mean(dim=(0, 1)) * columns.double().norm(dim=0)).argsort(descending=True)
    proj, normed = block.attn.proj.weight.clone(), block.norm1(tokens)
    added = []
    for head in range(6):
        block.attn.proj.weight.zero_()
        columns_of_head = slice(4 * head, 4 * head + 4)
        block.attn.proj.weight[:, columns_of_head] = proj[:, columns_of_head]
        added.append(block.attn(normed).norm(dim=-1).sum())
    block.attn.proj.weight.copy_(proj)
    groups = torch.stack(added).view(3, 2).sum(dim=1).argsort(descending=True)
    assert groups.tolist() != [0, 1, 2]
    sort_by_importance(net, [x])  # type: ignore[arg-type]
    assert torch.equal(block.mlp.fc2.weight, columns[:, neurons])
    assert torch.equal(block.attn.proj.weight, proj.unflatten(1, (3, 8))[:, groups].flatten(1))


@torch.no_grad()
def test_groups_are_sorted_by_all_weights_that_they_read_and_write_with() -> None:
    net = elastic()
    attn = net.shared.blocks[0].attn  # type: ignore[index]
    scores = [
        sum(
            p[size * group : size * (group + 1)].abs().sum()
            for layer, size in ((attn.q_proj, 8), (attn.k_proj, 4), (attn.v_proj, 4))
            for p in layer.parameters()
        )
        + attn.proj.weight[:, 8 * group : 8 * (group + 1)].abs().sum()
        for group in range(3)
    ]
    expected = torch.stack(scores).argsort(descending=True)
    found = next(order for owner, order in orders(net.shared) if owner is attn)
    assert torch.equal(found, expected)


def test_a_decoder_with_unequal_layers_is_not_nested_again() -> None:
    with pytest.raises(UsageError, match="its layers differ"):
        nested_options(Decoder(**TINY | {"mlp_hidden": [24, 16]}))
    assert nested_options(Decoder(**TINY))["mlp_hidden"] == (12, 15, 18, 21, 24)
