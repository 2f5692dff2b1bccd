"""Greedy decoding with a draft of the same weights gives what it gives without."""

import pytest
import torch

from search_spaces.errors import UsageError
from supernet.plain.decoder import Decoder
from supernet.speculation import completed, completed_with, nested_draft

SIZES = {"vocabulary": 50, "context": 48, "embed_dim": 32, "head_dim": 8, "heads_per_kv": 2}


@pytest.fixture(scope="module")
def target() -> Decoder:
    torch.manual_seed(0)
    made = Decoder(**SIZES, num_heads=[4, 4, 4], mlp_hidden=[64, 64, 64])
    with torch.no_grad():
        for weights in made.parameters():
            weights.copy_(torch.randn_like(weights) * 0.3 if weights.ndim > 1 else 1.0)
    return made.double().eval()  # so that rounding decides nothing


@pytest.fixture(scope="module")
def texts(target: Decoder) -> list[tuple[list[int], tuple[int, ...]]]:
    """Texts and the 30 tokens behind each, without any cache."""
    return [(ids, by_whole_texts(target, ids, 30)) for ids in ([3], [5, 1, 9, 30, 2, 2], list(range(17)))]


def by_whole_texts(target: Decoder, ids: list[int], count: int) -> tuple[int, ...]:
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(target(torch.tensor([ids]))[0, -1].argmax())]
    return tuple(ids[-count:])


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("ahead", [1, 2, 4, 7])
@pytest.mark.parametrize("hidden", [[64, 64, 64], [48, 64, 56], [1, 1, 1]], ids=["whole", "near", "far"])
def test_the_tokens_are_those_of_the_whole_network(
    target: Decoder,
    texts: list[tuple[list[int], tuple[int, ...]]],
    hidden: list[int],
    ahead: int,
    shared: bool,
) -> None:
    draft = nested_draft(target, target.config | {"mlp_hidden": hidden})
    for ids, expected in texts:
        alone = completed(target, ids, 30)
        assert alone.tokens == expected
        assert alone.calls == 30
        assert alone.acceptance is None
        made = completed_with(draft, target, ids, 30, ahead=ahead, shared=shared)
        assert made.tokens == expected
        assert 0 <= made.accepted <= made.drafted
        assert len(made.tokens) == made.calls + made.accepted  # each call chooses one beside what it accepts
        if hidden == [64, 64, 64]:
            assert made.acceptance == 1
            assert made.calls == 1 + -(-29 // (ahead + 1))


def test_a_draft_takes_no_memory_and_computes_what_a_copy_would(target: Decoder) -> None:
    hidden = [16, 64, 40]
    draft = nested_draft(target, target.config | {"mlp_hidden": hidden})
    shared = {weights.data_ptr() for weights in target.parameters()}
    assert {weights.data_ptr() for weights in draft.parameters()} <= shared
    copy = Decoder(**target.config | {"mlp_hidden": hidden}).double().eval()
    state = target.state_dict()
    for name, weights in copy.state_dict().items():
        whole = state[name]
        if "fc1" in name:
            gate, up = whole.chunk(2)
            whole = torch.cat([gate[: len(weights) // 2], up[: len(weights) // 2]])
        weights.copy_(whole[:, : weights.shape[1]] if "fc2" in name else whole)
    x = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(draft(x), copy(x), rtol=1e-12, atol=1e-12)


def test_what_cannot_be_done_is_refused(target: Decoder) -> None:
    with pytest.raises(UsageError, match=r"no part of \[64, 64, 64\]"):
        nested_draft(target, target.config | {"mlp_hidden": [65, 1, 1]})
    with pytest.raises(UsageError, match=r"no part of"):
        nested_draft(target, target.config | {"mlp_hidden": [64, 64]})
    with pytest.raises(UsageError, match=r"The draft knows 51 tokens, and the target 50"):
        nested_draft(target, target.config | {"vocabulary": 51, "mlp_hidden": [8, 8, 8]})
    with pytest.raises(UsageError, match=r"no text to be continued"):
        completed(target, [], 3)
    with pytest.raises(UsageError, match=r"No token is asked for"):
        completed(target, [1], 0)
    with pytest.raises(UsageError, match=r"40 tokens and 9 more do not fit into the context of 48"):
        completed_with(target, target, [1] * 40, 9)
    other = Decoder(**SIZES | {"heads_per_kv": 1}, num_heads=[4, 4, 4], mlp_hidden=[8, 8, 8])
    with pytest.raises(UsageError, match=r"heads_per_kv is 1, and the target's 2"):
        completed_with(other, target, [1], 3)
    with pytest.raises(UsageError, match=r"heads_per_kv is 1, and the target's 2"):
        nested_draft(target, other.config)
    shallow = target.config | {"num_heads": [4, 4], "mlp_hidden": [8, 8]}
    with pytest.raises(UsageError, match=r"The draft has 2 layers, and the target 3"):
        nested_draft(target, shallow)
