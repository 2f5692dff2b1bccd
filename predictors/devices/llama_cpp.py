"""llama.cpp on the CPU, for language models: GGUF files in the precisions that it has."""

from collections.abc import Iterator

from predictors.devices import Device, check_options, required
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError
from search_spaces.registry import load
from search_spaces.shapes.gguf import architecture_of, check_blocks
from search_spaces.space import SearchSpace
from search_spaces.workloads import FAMILIES

PRECISIONS = ("fp32", "fp16", "q8_0", "q4_0")
SESSION = "predictors.runtimes.sessions.llama_cpp"
SINGLE_LAYERS = False
TEXTS_WHOLE = True  # a step of decoding and a whole text are one code on one file: the quality is of both


def build(*, name: str = "llama.cpp", threads: int = 1, batch: int = 1, precision: str = "fp32") -> Device:
    """This machine's CPU; q8_0 and q4_0 quantise matrices, 32 numbers at a time, and what they multiply.

    Keys and values are kept in fp16, as llama.cpp does by default.
    Raises UsageError for values that it cannot have, and where gguf or xllamacpp is not installed.
    """
    check_options(name, threads=threads, batch=batch, precision=precision, precisions=PRECISIONS)
    required(name, "gguf", extra="llama-cpp")
    required(name, "xllamacpp", importing=SESSION, extra="llama-cpp")  # with the functions that are called
    from predictors.runtimes.gguf.llama_cpp import LlamaCppCPU, check_version  # noqa: PLC0415 - imports torch

    check_version(name)
    return LlamaCppCPU(name, threads, batch, precision)


def check_space(space: SearchSpace, *, name: str, precision: str) -> None:
    """Raises UsageError for a space with networks that llama.cpp lacks, or not in this precision.

    Looked at are the largest and the smallest network, and those that differ from one of them in one choice.
    """
    for member in space.members.values():
        family = load(FAMILIES, member.family)
        if not hasattr(family, "as_run"):
            raise UsageError(
                f"Device '{name}' runs language models, and the networks of family '{member.family}' are "
                "run on images.",
                "Take another backend.",
            )
        for arch in _looked_at(member):
            config = family.plain_config(member, arch)
            try:
                architecture_of(config)
                check_blocks(config, precision)
            except UsageError as error:
                message = f"Device '{name}' cannot run subnet {arch.key} of the space: {error.message}"
                raise UsageError(message, error.hint) from error


def _looked_at(space: SearchSpace) -> Iterator[Architecture]:
    largest = dict(space.largest.values)
    # What the smallest does not have is chosen where one of its choices is another.
    for values in (largest, {**largest, **dict(space.smallest.values)}):
        for choice in space.choices:
            for option in choice.options:
                yield space.architecture({**values, choice.name: option})
