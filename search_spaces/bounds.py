"""How large a space may be, judged from plain numbers before a table, a list or a module is made of them.

A slip of the keyboard must not fill the memory. No network that people train comes near to these limits; what
the machine at hand can hold is another question, which `nas.spaces.memory_limits` answers.
"""

import math
from typing import TYPE_CHECKING

from search_spaces.errors import UsageError

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

MOST = 100_000  # of anything that is counted: channels, neurons, heads, classes, pixels of a side
DEEPEST = 256  # blocks of a network
MOST_STAGES = 16
MOST_STITCHES = 10_000
MOST_CHOICES = 1_000
MOST_COMBINATIONS = 1_000_000  # of options, over the tables of all parts of a space
MOST_BITS = 4_096  # of the number of architectures
MOST_CHARACTERS = 200  # of a value in a message
LARGEST_BYTES = 2**40  # that a training of the largest network holds, or its activations for one image
TRAINING_BYTES = 16  # a parameter: weight, gradient and Adam's two moments in float32


def positive(name: str, value: object, *, most: int = MOST) -> int:
    """The value. Raises UsageError unless it is a whole number from 1 to `most`."""
    if type(value) is not int or value < 1:
        raise UsageError(f"{name} = {short(value)} is not a positive integer.")
    return bounded(name, value, most=most)


def bounded(name: str, value: int, *, most: int = MOST) -> int:
    """The value. Raises UsageError for one above `most`."""
    if value > most:
        raise UsageError(f"{name} = {short(value)} is too large: at most {most:,} is possible.")
    return value


def bounded_depth(name: str, depth: int) -> int:
    """The number of blocks. Raises UsageError for more than any network has."""
    return bounded(name, depth, most=DEEPEST)


def check_size(space: "SearchSpace") -> None:
    """Raises UsageError for a space whose tables, or whose largest network, no machine holds."""
    if len(space.choices) > MOST_CHOICES:
        raise UsageError(
            f"Space '{space.name}' has {len(space.choices):,} choices, over {MOST_CHOICES:,}.",
            "Give it a smaller depth, or choose less per layer.",
        )
    options = {choice.name: 1 + len(choice.options) for choice in space.choices}
    combinations = sum(math.prod(options[name] for name in part.depends_on) for part in space.parts)
    if combinations > MOST_COMBINATIONS or space.size.bit_length() > MOST_BITS:
        raise UsageError(
            f"Space '{space.name}' has too many options: tables of {combinations:,} combinations, "
            f"architectures counted by a number of {space.size.bit_length():,} bits; at most "
            f"{MOST_COMBINATIONS:,} and {MOST_BITS:,} are possible.",
            "Give its choices fewer options.",
        )
    cost = space.cost(space.largest)
    held = max(cost.params * TRAINING_BYTES, cost.activation_bytes)
    if held > LARGEST_BYTES:
        raise UsageError(
            f"The largest network of space '{space.name}' has {cost.params:,} parameters and makes "
            f"{cost.activation_bytes:,} bytes of activations of one image: no machine trains it.",
            "Take smaller options of embed_dim, mlp_ratio, num_heads or depth, or a smaller image_size.",
        )


def short(value: object) -> str:
    """How a message shows a value that may be as long as it likes."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of over 30 digits"
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
