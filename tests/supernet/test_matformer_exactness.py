"""Running a subnet, extracting it and counting it agree, for every feature of the plain ViT."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from elastic_nets import FEATURES, net
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
import supernet
from search_spaces import Architecture
from search_spaces.shapes.elastic_vit import plain_config, vit_config
from supernet.nested import Nested, prefix_slice
from supernet.plain.vit import ViT

features = pytest.mark.parametrize("options", FEATURES.values(), ids=FEATURES.keys())


def some_architectures(elastic: Nested, count: int) -> list[Architecture]:
    rng = np.random.default_rng(0)
    space = elastic.space
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(count))]


@features
def test_the_largest_architecture_is_the_plain_vit(options: dict[str, Any]):
    elastic = net(**options)
    x = elastic.example_input(3)
    assert torch.equal(elastic(x, elastic.space.largest), elastic.shared(x))
    twin = ViT(**elastic.shared.config)
    twin.load_state_dict(elastic.shared.state_dict(), strict=True)
    assert torch.equal(twin(x), elastic.shared(x))


@features
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_extracted_subnet_gives_the_same_bits(options: dict[str, Any], dtype: torch.dtype):
    elastic = net(**options).to(dtype)
    x = elastic.example_input(3).to(dtype)
    with torch.no_grad():
        for arch in some_architectures(elastic, 2):
            output = elastic(x, arch)
            assert output.isfinite().all()
            assert torch.equal(output, elastic.extract(arch)(x)), arch


@features
def test_an_extracted_subnet_stands_alone(options: dict[str, Any]):
    elastic = net(**options)
    arch = elastic.space.smallest
    subnet = elastic.extract(arch)
    assert isinstance(subnet, ViT)
    assert not subnet.training
    owned = {p.data_ptr() for p in elastic.parameters()}
    assert not owned & {p.data_ptr() for p in subnet.parameters()}
    before = elastic(x := elastic.example_input(2), arch)
    with torch.no_grad():
        for parameter in subnet.parameters():
            parameter.zero_()
    assert torch.equal(before, elastic(x, arch))


@features
def test_counts_are_those_of_the_module(options: dict[str, Any]):
    elastic = net(**options)
    x = elastic.example_input(1)
    for arch in some_architectures(elastic, 3):
        cost, module = elastic.space.cost(arch), elastic.extract(arch)
        assert cost.params == sum(p.numel() for p in module.parameters()), arch
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
        assert 2 * cost.macs == counter.get_total_flops(), arch


def test_a_cost_counts_the_parameters_of_every_layer_by_name():
    elastic = net(**FEATURES["gated"])
    arch = elastic.space.sample(np.random.default_rng(1))
    by_name = dict.fromkeys((layer.name for layer in elastic.space.layers(arch)), 0)
    for layer in elastic.space.layers(arch):
        by_name[layer.name] += layer.params
    modules = dict(elastic.extract(arch).named_modules())
    for name, params in by_name.items():
        if name in modules and "attn" not in name.rpartition(".")[2]:
            assert params == sum(p.numel() for p in modules[name].parameters()), name


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("matformer_vit_b16", (36_990_184, 44_072_680, 58_237_672, 86_567_656)),
        ("matformer_vit_l16", (128_079_848, 153_257_960, 203_614_184, 304_326_632)),
    ],
)
def test_parameters_of_space_and_module(name: str, counts: tuple[int, ...]):
    space = search_spaces.get(name)
    vit = vit_config(space)
    for preset, params in zip(("s", "m", "l", "xl"), counts, strict=True):
        arch = space.preset(preset)
        assert space.cost(arch).params == params
        with torch.device("meta"):
            module = ViT(**plain_config(vit, arch))
        assert sum(p.numel() for p in module.parameters()) == params


def kept(elastic: Nested, arch: Architecture) -> dict[str, Tensor]:
    """For every shared parameter a mask of the entries that the architecture uses."""
    masks = {}
    sliced = elastic.tensors(arch)
    for name, parameter in elastic.shared.named_parameters():
        mask = torch.zeros(parameter.numel(), dtype=torch.bool)
        if name in sliced:
            positions = torch.arange(parameter.numel()).view(parameter.shape)
            mask[prefix_slice(positions, sliced[name].shape, segments=elastic.segments(name)).flatten()] = (
                True
            )
        masks[name] = mask.view(parameter.shape)
    return masks


@features
def test_a_smaller_uniform_subnet_is_contained_in_the_larger(options: dict[str, Any]):
    elastic = net(**options)
    masks = [kept(elastic, arch) for arch in elastic.space.uniform(4)]
    for smaller, larger in pairwise(masks):
        assert all(bool((larger[name] | ~mask).all()) for name, mask in smaller.items())
        assert sum(int(m.sum()) for m in smaller.values()) < sum(int(m.sum()) for m in larger.values())
    assert all(mask.all() for mask in masks[-1].values())


@features
def test_a_step_of_a_subnet_touches_its_own_slice_only(options: dict[str, Any]):
    elastic = net(**options)
    for arch in some_architectures(elastic, 2):
        elastic.zero_grad(set_to_none=True)
        elastic(elastic.example_input(4), arch).square().sum().backward()
        masks = kept(elastic, arch)
        for name, parameter in elastic.shared.named_parameters():
            mask = masks[name]
            if not mask.any():
                assert parameter.grad is None, name
                continue
            assert parameter.grad is not None, name
            assert not parameter.grad[~mask].any(), name
            assert parameter.grad[mask].any(), name


def test_the_same_seed_gives_the_same_weights():
    space = search_spaces.get("matformer")
    first, again, other = (supernet.build(space, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["shared.head.weight"], other["shared.head.weight"])


def test_a_skeleton_leaves_the_random_numbers_alone():
    elastic = net()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    elastic.extract(elastic.space.smallest)
    assert torch.equal(torch.rand(3), expected)
