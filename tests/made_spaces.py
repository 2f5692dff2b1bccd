"""Spaces made for tests: one by hand with conditions on conditions, and any number at random."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from search_spaces import Choice, Part, SearchSpace
from search_spaces.layers import Layer, linear

HUGE = 2**60 + 1


def nested() -> SearchSpace:
    """Conditions three deep, gaps in a per-layer list, options of every type, and counts beyond 2**53."""

    def kind(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        if values["kind"] == "conv":
            return (Layer("conv", "conv2d", (1,), params=HUGE, macs=7, input_elements=1, output_elements=2),)
        return (
            linear("attn", 4, values["heads"], 8),
            *([linear("gate", 4, 8, 8)] if values["gated"] else []),
        )

    def head(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        return (linear("head", 1, 8, 3),)

    def layer(i: int) -> Part:
        def layers(values: Mapping[str, Any]) -> tuple[Layer, ...]:
            width = values[f"width.{i}"]
            return () if width is None else (linear(f"layers.{i}", 1, width, 2),)

        return Part((f"width.{i}",), layers)

    return SearchSpace(
        name="nested",
        family="none",
        choices=(
            Choice("kind", ("conv", "attention")),
            Choice("heads", (1, 2, 4), ("kind", ("attention",))),
            Choice("gated", (False, True), ("heads", (2, 4))),
            Choice("slope", (0.5, 1), ("gated", (True,))),
            Choice("width.0", (1, 2)),
            Choice("width.1", (1, 2, 3), ("kind", ("conv",))),
            Choice("width.2", (1, 2)),
        ),
        parts=(Part(("kind", "heads", "gated"), kind), layer(0), layer(1), layer(2), Part((), head)),
        options={},
        preset_values={"plain": {"kind": "conv", "width": [1, 3, 2]}},
    )


OPTIONS = st.one_of(
    st.integers(-3, 3), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3), st.booleans()
)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Up to five choices, alone or of one of two groups, each perhaps under a condition on an earlier one."""
    choices: list[Choice] = []
    for i in range(draw(st.integers(1, 5))):
        group = draw(st.sampled_from(["", "a.", "stage.b."]))
        options = tuple(draw(st.lists(OPTIONS, min_size=1, max_size=3, unique=True)))
        needs = None
        if choices and draw(st.booleans()):
            parent = draw(st.sampled_from(choices))
            values = draw(st.lists(st.sampled_from(parent.options), min_size=1, unique=True))
            needs = (parent.name, tuple(values))
        choices.append(Choice(f"{group}{i}" if group else f"c{i}", options, needs))
    return SearchSpace("made", "none", tuple(choices), (), {})
