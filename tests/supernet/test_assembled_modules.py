"""What is run again without gradients, and that it is what the weights make of it now."""

import copy
from collections.abc import Callable

import pytest
import torch
from elastic_nets import net
from torch import nn

import search_spaces
import supernet
from search_spaces import Architecture
from supernet import nested
from supernet.nested import Nested

EMBEDDING = "patch_embed.proj"


def assembled(family: str = "matformer") -> Nested:
    """A supernet that has run its smallest architecture often enough to keep a module of it."""
    made = net() if family == "matformer" else supernet.build(search_spaces.get(family))
    assert isinstance(made, Nested)
    made.eval()
    for _ in range(3):
        check(made)
    return made


@torch.no_grad()
def check(made: Nested) -> None:
    arch, x = made.space.smallest, made.example_input(2).to(next(made.parameters()).dtype)
    assert torch.equal(made(x, arch), made.extract(arch)(x))


@pytest.mark.parametrize("family", ["matformer", "vit_resnas", "turbovit_digit_pairs"])
def test_slices_are_taken_once_for_the_same_weights(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = assembled(family)
    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(made, "tensors", None)
        made(made.example_input(1), made.space.smallest)


def in_place(made: Nested) -> None:
    with torch.inference_mode():
        for parameter in made.shared.parameters():
            parameter.mul_(1.5)


def step(made: Nested) -> None:
    """Of a fused optimiser, which tells no tensor that it has changed."""
    optimizer = torch.optim.SGD(made.shared.parameters(), lr=0.1, fused=True)
    made(made.example_input(2), made.space.smallest).sum().backward()
    optimizer.step()


def load(made: Nested) -> None:
    made.load_state_dict({name: 2 * one for name, one in made.state_dict().items()}, assign=True)


def replace(made: Nested) -> None:
    projection = made.shared.get_submodule(EMBEDDING)
    projection.weight = nn.Parameter(2 * projection.weight.detach())


def replace_around(made: Nested) -> None:
    layers = made.shared.get_submodule(EMBEDDING)
    made.shared.get_submodule("patch_embed").proj = copy.deepcopy(layers).apply(
        lambda one: nn.init.normal_(one.weight)
    )


def convert(made: Nested) -> None:
    made.double()


@pytest.mark.parametrize("change", [in_place, step, load, replace, replace_around, convert])
def test_other_weights_have_other_slices(change: Callable[[Nested], None]) -> None:
    made = assembled()
    before = made.extract(made.space.smallest).state_dict()
    change(made)
    after = made.extract(made.space.smallest).state_dict()
    assert not all(
        torch.equal(before[name], one) and before[name].dtype == one.dtype for name, one in after.items()
    )
    for _ in range(3):
        check(made)


def test_what_is_altered_is_run_altered() -> None:
    made = assembled()
    arch, x = made.space.smallest, made.example_input(1)
    with (
        torch.no_grad(),
        made.altered(arch, lambda plain: plain.register_forward_hook(lambda *_: x.new_ones(3))),
    ):
        assert torch.equal(made(x, arch), torch.ones(3))
    check(made)


@pytest.mark.parametrize(
    ("limit", "most", "times"),
    [
        ("ASSEMBLED", 3, 2),  # once to be run, once for a module
        ("ASSEMBLED", 2, 4),  # it had to make room for the others
        ("COPIES", 0, 5),  # one that is not kept when it was made, and is never made again
    ],
)
def test_no_more_are_kept_than_there_is_room_for(
    limit: str, most: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nested, limit, most)
    made, taken = net().eval(), list[Architecture]()
    assert isinstance(made, Nested)
    take = made.tensors
    monkeypatch.setattr(made, "tensors", lambda arch: (taken.append(arch), take(arch))[1])
    first, *others = made.space.uniform(4)[:3]
    for arch in (first, *others, first):
        for _ in range(2):
            with torch.no_grad():
                made(made.example_input(1), arch)
    assert taken.count(first) == times
