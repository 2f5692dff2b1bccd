"""Points and choices that make no sense: one sentence each."""

import pytest

import search_spaces
from search_spaces import Choice, SearchSpace
from search_spaces.errors import UsageError

SPACE = search_spaces.get("matformer", embed_dim=(16, 32), depth=(1, 2), num_heads=(2, 4), mlp_ratio=(1, 2))
GOOD = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": [1, 2]}


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        (GOOD | {"embed_dmi": 16}, "no choice 'embed_dmi'", "'embed_dim'"),
        (GOOD | {"embed_dim": 17}, "embed_dim = 17", "16, 32"),
        (GOOD | {"embed_dim": None}, "embed_dim = None", "16, 32"),
        (GOOD | {"embed_dim": [16]}, "'embed_dim' of space 'matformer' takes one value", ""),
        (GOOD | {"mlp_ratio": 2}, "'mlp_ratio' of space 'matformer' is chosen per layer", "list"),
        (GOOD | {"mlp_ratio": [1, 3]}, "mlp_ratio.1 = 3", "1, 2"),
        (GOOD | {"mlp_ratio": [1]}, "lacks a value for 'mlp_ratio.1'", ""),
        (GOOD | {"mlp_ratio": [1, 2, 1]}, "no 'mlp_ratio' for layer 2", ""),
        ({"embed_dim": 16}, "lacks a value for 'depth'", ""),
    ],
)
def test_wrong_points_are_one_sentence(values: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        SPACE.architecture(values)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "choices",
    [
        (Choice("a", ()),),
        (Choice("a", (1, 1)),),
        (Choice("a", (1,)), Choice("a", (2,))),
        (Choice("a", (1,)), Choice("a.0", (2,))),
        (Choice("a.0", (1,)), Choice("a", (2,))),
        (Choice("a", (1,), ("b", (1,))), Choice("b", (1,))),
        (Choice("a", (1,)), Choice("b", (1,), ("a", (2,)))),
    ],
)
def test_choices_that_make_no_space_are_refused(choices: tuple[Choice, ...]) -> None:
    with pytest.raises(UsageError, match="space 'wrong'"):
        SearchSpace("wrong", "none", choices, (), {})
