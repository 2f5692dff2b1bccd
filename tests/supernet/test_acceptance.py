"""What is told of a draft by looking at all rounds that could begin is what decoding with it comes to."""

import pytest
import torch

from search_spaces.errors import UsageError
from supernet.evaluation.acceptance import Rounds, Written, agreements, rounds, speed_up, written
from supernet.evaluation.scores import ratio
from supernet.plain.decoder import Decoder
from supernet.speculation import completed, completed_with, nested_draft

COUNT, AHEAD = 18, 4  # tokens that are decoded; at a time, at most


@pytest.fixture(scope="module")
def target() -> Decoder:
    sizes = {"vocabulary": 50, "context": 32, "embed_dim": 32, "head_dim": 8, "heads_per_kv": 2}
    torch.manual_seed(0)
    made = Decoder(**sizes, num_heads=[4, 4], mlp_hidden=[64, 64])
    with torch.no_grad():
        for weights in made.parameters():
            weights.copy_(torch.randn_like(weights) * 0.3 if weights.ndim > 1 else 1.0)
    return made.double().eval()  # so that rounding decides nothing


@pytest.fixture(scope="module")
def texts(target: Decoder) -> Written:
    ids = torch.randint(50, (3, 5), generator=torch.Generator().manual_seed(0))
    return written(target, ids, COUNT + AHEAD)


def test_texts_are_written_as_they_are_completed(target: Decoder, texts: Written) -> None:
    for ids, tokens in zip(texts.texts, texts.tokens, strict=True):
        assert completed(target, ids.tolist(), COUNT + AHEAD).tokens == tuple(tokens.tolist())
    assert {len(keys[0, 0]) for keys, _ in texts.cache} == {5 + COUNT + AHEAD - 1}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("hidden", [[64, 64], [56, 48], [8, 8]], ids=["whole", "near", "far"])
def test_what_decoding_accepts_is_foretold(
    target: Decoder, texts: Written, hidden: list[int], shared: bool
) -> None:
    draft = nested_draft(target, target.config | {"mlp_hidden": hidden})
    agreed = agreements(draft, texts, AHEAD, shared=shared)
    assert agreed.shape == (3, COUNT, AHEAD)
    assert bool(agreed.all()) == (hidden == [64, 64])
    for ahead in (1, 3, AHEAD):
        for ids, of_text in zip(texts.texts, agreed, strict=True):
            made = completed_with(draft, target, ids.tolist(), COUNT, ahead=ahead, shared=shared)
            tokens, calls, accepted = 1, 1, 0
            while tokens < COUNT:
                room = min(ahead, COUNT - tokens - 1)
                proposed = of_text[tokens - 1, :room].tolist()
                agrees = next((i for i, good in enumerate(proposed) if not good), room)
                tokens, calls, accepted = tokens + agrees + 1, calls + 1, accepted + agrees
            assert (made.calls, made.accepted) == (calls, accepted)
    remembered = agreements(draft, texts, AHEAD, shared=shared)  # nothing of the texts was changed
    assert torch.equal(remembered, agreed)


def test_rounds_follow_one_another() -> None:
    agreed = torch.tensor(
        [
            [[1, 1], [1, 0], [0, 1], [1, 1], [0, 0]],  # behind 0: two, behind 3: two
            [[0, 1], [1, 0], [0, 1], [0, 1], [0, 1]],  # behind 0: none, 1: one, 3: none, 4: none
        ],
        dtype=torch.bool,
    )
    both = rounds(agreed, 2)
    assert (both.count.tolist(), both.accepted.tolist()) == ([2, 4], [4, 1])
    one = rounds(agreed, 1)
    assert (one.count.tolist(), one.accepted.tolist()) == ([3, 4], [2, 1])
    share = both.acceptance()
    assert share.value == 5 / (2 * 6)
    assert share == ratio(torch.tensor([4, 1]), torch.tensor([4, 8]))
    assert share.stderr > 0
    same = Rounds(2, torch.tensor([2, 4, 2, 4]), torch.tensor([4, 1, 4, 1]))
    clustered = same.acceptance(torch.tensor([[0], [1], [0], [1]]))
    assert clustered.stderr == pytest.approx(share.stderr)  # the same documents once more tell nothing


def test_a_draft_is_worth_what_it_saves() -> None:
    assert speed_up(1.0, 4, 0.0) == 5
    assert speed_up(0.0, 4, 0.5) == 1 / 3
    assert speed_up(0.7, 1, 0.7) == 1  # one token at a time saves where more is accepted than it costs
    assert speed_up(1.0, 1, 0.5, 0.5) == 1


def test_what_cannot_be_looked_at(target: Decoder, texts: Written) -> None:
    with pytest.raises(UsageError, match=r"20 tokens and 13 more do not fit into the context of 32"):
        written(target, torch.zeros(1, 20, dtype=torch.int64), 13)
    with pytest.raises(UsageError, match="no text to be continued"):
        written(target, torch.zeros(1, 0, dtype=torch.int64), 3)
    with pytest.raises(UsageError, match=r"Of 22 tokens no round of 22"):
        agreements(target, texts, COUNT + AHEAD)
