"""What architectures share when they are evaluated together: half blocks, sibling FFNs, cached prefixes."""

from collections.abc import Iterator, Sequence

import elastic_nets
import numpy as np
import pytest
import torch
from torch import Tensor

import search_spaces
import supernet
from benchmarks.forward_work import cached_work, forward_work
from search_spaces import Architecture
from supernet.evaluation.prefix_cache import PrefixCache
from supernet.evaluation.scores import Descent, scored
from supernet.evaluation.steps import Chunk, Siblings, Steps, shared_steps
from supernet.supernet import Supernet

GATED = "gated"
NETS = ("matformer", "autoformer", "vit_resnas", "turbovit_digit_pairs", "stitching", "matlm", GATED)


@pytest.fixture(scope="module", params=NETS)
def net(request: pytest.FixtureRequest) -> Supernet:
    if request.param == GATED:
        return elastic_nets.net(**elastic_nets.FEATURES[GATED])
    return supernet.build(search_spaces.get(request.param), seed=0).eval()


def some(net: Supernet) -> list[Architecture]:
    """Neighbours, which differ in one FFN only, and random ones."""
    space, rng = net.space, np.random.default_rng(0)
    widths = [choice for choice in space.choices if choice.name.startswith("mlp")][-2:]
    near = [
        space.architecture(dict(space.largest.values) | {choice.name: option})
        for choice in widths
        for option in choice.options
    ]
    return list(dict.fromkeys([*near, space.smallest, *space.decode(space.sample_choices(rng, 3))]))


def outputs(descent: Descent, x: Tensor, archs: list[Architecture]) -> dict[Architecture, Tensor]:
    with torch.inference_mode():
        return dict(descent.run(x, archs, batch=0))


def test_halves_are_bit_identical_to_the_extracted_network(net: Supernet) -> None:
    archs, x = some(net), net.example_input(3)
    descent = Descent(shared_steps(net), siblings=False, cache=None)
    found = outputs(descent, x, archs)
    with torch.inference_mode():
        assert all(torch.equal(found[arch], net.extract(arch)(x)) for arch in archs)
    assert descent.macs == forward_work(net, archs).halves


def test_siblings_are_the_extracted_network_up_to_rounding(net: Supernet) -> None:
    archs, x = some(net), net.example_input(3)
    descent = Descent(shared_steps(net), siblings=True, cache=None)
    found = outputs(descent, x, archs)
    with torch.inference_mode():
        for arch in archs:
            alone = net.extract(arch)(x)
            assert (found[arch] - alone).abs().max() <= 1e-6 * alone.abs().max()
    assert descent.macs == forward_work(net, archs).siblings


def test_siblings_have_the_bits_of_sums_over_one_chunk_after_the_other(net: Supernet) -> None:
    steps, x = shared_steps(net), net.example_input(16)
    with torch.inference_mode():
        for step in (steps[key] for key in steps.path(net.space.largest)):
            for asked in [range(1, len(step.chunks) + 1), [len(step.chunks)], [1, len(step.chunks)]] * 2:
                siblings = Siblings(x)
                for count in asked if step.chunks else []:
                    added = summed(x, step.chunks[:count])
                    assert torch.equal(siblings.output(step.chunks[:count]), added)
            x = step.run(x)


def summed(x: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    block = chunks[0].block
    normed, bias = block.norm2(x).flatten(0, 1), block.mlp.fc2.bias
    total = x.new_zeros(()) if bias is None else bias
    for chunk in chunks:
        total = torch.addmm(total, chunk.neurons(normed), chunk.columns)
    return x + block.scaled(total.view_as(x))


@pytest.mark.parametrize("siblings", [False, True])
def test_company_and_cache_change_no_bit(net: Supernet, siblings: bool) -> None:
    archs, x, steps = some(net), net.example_input(3), shared_steps(net)
    together = outputs(Descent(steps, siblings=siblings, cache=None), x, archs)
    for budget in (20_000, 10**9):
        descent = Descent(steps, siblings=siblings, cache=PrefixCache(budget))
        for arch in reversed(archs):
            assert torch.equal(outputs(descent, x, [arch])[arch], together[arch])
        groups = [[arch] for arch in reversed(archs)]
        counted = cached_work(net, groups, siblings=siblings, budget=budget, images=3)
        assert descent.macs == counted


def test_each_level_of_sharing_saves_work(net: Supernet) -> None:
    work = forward_work(net, some(net))
    assert work.alone == sum(net.space.cost(arch).macs for arch in some(net))
    assert work.alone > work.blocks >= work.halves >= work.siblings
    chosen = any(choice.name.startswith("mlp") and len(choice.options) > 1 for choice in net.space.choices)
    assert (work.blocks > work.halves > work.siblings) == chosen


def test_every_ffn_width_of_one_layer_costs_one_pass_of_the_widest() -> None:
    net = elastic_nets.net(embed_dim=(16,), depth=(1,), num_heads=(4,))
    archs = net.space.decode(net.space.all_codes())
    steps = shared_steps(net)
    stem, attn, _, head = (steps[key].macs for key in steps.path(net.space.largest))
    widest = max(steps[steps.path(arch)[2]].macs for arch in archs)
    assert forward_work(net, archs).siblings == stem + attn + widest + len(archs) * head


def test_images_are_told_apart_by_their_ids() -> None:
    net = elastic_nets.net()
    archs, cache = some(net), PrefixCache(10**8)
    data = [(net.example_input(4) + shift, torch.arange(4) % 5) for shift in (0, 1, 2)]
    plain = scored(net, archs, data)
    for _ in range(2):
        found = scored(net, archs, data, cache=cache, ids=[("search", 0), ("search", 4), ("report", 0)])
        assert all(torch.equal(found[arch], plain[arch]) for arch in archs)
    assert cache.hits >= len(data) * len(archs)
    with pytest.raises(ValueError, match="ids"):
        scored(net, archs, data, cache=cache)
    with pytest.raises(ValueError, match="zip"):
        scored(net, archs, data, cache=cache, ids=["too few"])


def test_steps_are_made_once_however_often_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    net = elastic_nets.net(embed_dim=(16,), depth=(3,), num_heads=(4,))
    made: list[Architecture] = []
    assemble = net.steps

    def noted(arch: Architecture) -> Iterator[tuple[str, object]]:
        made.append(arch)
        return assemble(arch)

    monkeypatch.setattr(net, "steps", noted)
    archs = net.space.decode(net.space.all_codes())
    steps: Steps = shared_steps(net)
    data = [(net.example_input(2), torch.zeros(2))]
    for _ in range(2):
        scored(net, archs, data, steps=steps)
    assert len(archs) == 64
    assert len(made) <= 1 + 3 * 3  # each further one brings an option of a layer


@pytest.mark.parametrize("siblings", [False, True])
def test_activations_are_let_go_when_all_have_taken_them(siblings: bool) -> None:
    """Of a chain of steps at most two values live at a time."""
    net = elastic_nets.net(embed_dim=(16,), depth=(3,), num_heads=(4,))
    steps = shared_steps(net)
    alive: list[int] = []
    descent = Descent(steps, siblings=siblings, cache=None)
    compute = descent._computed

    def noted(node):
        value = compute(node)
        chain, count = node, 1
        while (chain := chain.parent) is not None:
            count += chain.value is not None
        alive.append(count)
        return value

    descent._computed = noted  # type: ignore[method-assign]
    outputs(descent, net.example_input(2), [net.space.largest])
    assert max(alive) == 1


def test_steps_tell_how_many_weights_they_keep(net: Supernet) -> None:
    steps = shared_steps(net)
    for key in steps.path(net.space.largest):
        assert steps[key].params >= 0
    assert steps.params == net.space.cost(net.space.largest).params
