"""Decoders in llama.cpp on the CPU, from GGUF files in the precisions that those have."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from predictors.devices import JSON, Compute, Example, Run, Timing
from predictors.measurement.calibrator import DIM, HEADS, MLP_RATIO, TOKENS
from predictors.runtimes.energy import PackageEnergy
from predictors.runtimes.gguf.files import GGUFFile, write
from predictors.runtimes.host import host_fingerprint, pinned, timed
from predictors.runtimes.outputs import check_outputs
from predictors.runtimes.resident import resident_peak
from predictors.runtimes.sessions import llama_cpp
from predictors.runtimes.sessions.llama_cpp import LlamaCppRun, loaded
from predictors.runtimes.torch import as_arguments, evaluating
from predictors.temporary_folders import passing_folder
from search_spaces.errors import UsageError

# Where it attends in fp32, of the largest logit.
EXACT = 1e-3
# As it is run it attends in fp16, which moves a few tokens' largest logits by a hundredth and more:
# root mean square of the differences of logits, relative to theirs. SmolLM2's slices: up to 3e-3 and 1e-2.
TOLERANCES = {"fp32": 0.01, "fp16": 0.05, "q8_0": None, "q4_0": None}
VOCABULARY = 256  # of the calibrator


def check_version(name: str) -> None:
    """Raises UsageError for a llama.cpp whose interface is another one."""
    if not llama_cpp.is_as_expected():
        raise UsageError(
            f"Device '{name}' does not know the llama.cpp of xllamacpp {version('xllamacpp')}.",
            "Its parameters are laid out otherwise than in 2026.10.11549, which is tested.",
        )


@dataclass(frozen=True)
class _Network:
    """A file, how many token ids it has, the texts (B, T), whether only their last tokens are run, and what
    the module itself computes; None where that is not compared.
    """

    file: Path
    vocabulary: int
    texts: Tensor
    is_step: bool
    expected: Tensor | None


@dataclass(frozen=True)
class LlamaCppCPU:
    """A `Device` for decoders; one thread is the calling one and timed in its CPU time, more in wall time."""

    name: str
    threads: int
    batch: int
    precision: str
    energy: PackageEnergy = field(default_factory=PackageEnergy, compare=False)

    def fingerprint(self) -> dict[str, JSON]:
        """See `Device.fingerprint`; package gguf quantises."""
        return {
            "backend": "llama_cpp",
            **llama_cpp.versions(),
            "gguf": version("gguf"),
            **host_fingerprint(),
            "threads": self.threads,
            "batch": self.batch,
            "precision": self.precision,
        }

    @contextmanager
    def session(self) -> Iterator[None]:
        """One core for one thread."""
        with pinned(self.threads):
            yield

    @contextmanager
    def prepare(self, module: nn.Module, example: Example) -> Iterator[Run]:
        """See `Device.prepare`; logits of all tokens, checked against torch's in fp32 and fp16.

        module: a decoder as supernets of language models make them, a step of its decoding, or a `GGUFFile`.
        """
        with self._loaded(module, example) as run:
            yield run

    @contextmanager
    def computing(self, module: nn.Module, example: Tensor) -> Iterator[Compute]:
        """See `Device.computing`."""
        with self._loaded(module, example) as run:
            yield lambda x: torch.from_numpy(run.computed([x.numpy()])[0])

    def calibrator(self, batch: int) -> tuple[nn.Module, Tensor]:
        """See `Device.calibrator`: one block as wide and as long as that of other backends."""
        ids = torch.randint(VOCABULARY, (batch, TOKENS), generator=torch.Generator().manual_seed(0))
        return OneBlock().eval(), ids

    def time(self, run: Run) -> Timing:
        """One timing with the garbage collector off."""
        return timed(run, self.threads)

    def peak_memory(self, module: nn.Module, example: Example) -> int | None:
        """By a process of its own that loads the file with llama.cpp; see `resident_peak`."""
        with self._file(module, example) as network:
            inputs = {"texts": network.texts.numpy()}
            return resident_peak(loaded.__module__, network.file, inputs, self._options(network))

    def joules(self) -> float | None:
        """Of all CPU packages; see `PackageEnergy`."""
        return self.energy.joules()

    def _options(self, network: _Network) -> dict[str, Any]:
        return {"vocabulary": network.vocabulary, "is_step": network.is_step, "threads": self.threads}

    @contextmanager
    def _loaded(self, module: nn.Module, example: Example) -> Iterator[LlamaCppRun]:
        with self._file(module, example) as network:
            if network.expected is not None and self.precision == "fp32":
                self._check_exactly(network, network.expected)
            run = self._opened(network)
        # What llama.cpp has not read of the file by now stays readable: it has mapped it.
        try:
            outputs = [torch.from_numpy(output) for output in run.outputs()]
            expected = outputs if network.expected is None else [network.expected]
            check_outputs("llama.cpp", outputs, expected, tolerance=None)
            self._check_logits(outputs[0].double(), expected[0].double())
            yield run
        finally:
            run.close()

    def _opened(self, network: _Network, **how: bool) -> LlamaCppRun:
        try:
            return loaded(network.file, {"texts": network.texts.numpy()}, **self._options(network), **how)
        except RuntimeError as error:
            raise UsageError(f"llama.cpp does not take the network: {error}.") from error

    def _check_exactly(self, network: _Network, expected: Tensor) -> None:
        """That it is the same network, by a run that attends in fp32, too."""
        run = self._opened(network, exact=True)
        try:
            outputs = [torch.from_numpy(output) for output in run.outputs()]
        finally:
            run.close()
        check_outputs("llama.cpp", outputs, [expected], tolerance=EXACT)

    def _check_logits(self, given: Tensor, expected: Tensor) -> None:
        """Raises UsageError where they differ by more than rounding does."""
        error, tolerance = float((given - expected).norm() / expected.norm()), TOLERANCES[self.precision]
        if tolerance is not None and error > tolerance:
            raise UsageError(f"llama.cpp's logits are off by {error:.1e} of their root mean square.")

    @contextmanager
    def _file(self, module: nn.Module, example: Example) -> Iterator[_Network]:
        """Raises UsageError for what is no decoder, and for one that cannot be written in this precision."""
        (last,) = as_arguments(example)
        if len(last) > llama_cpp.MOST_TEXTS:
            raise UsageError(
                f"llama.cpp takes {llama_cpp.MOST_TEXTS} texts at once, and the batch is {len(last)}."
            )
        remembered: Tensor | None = getattr(module, "remembered", None)
        is_step = remembered is not None
        texts = last if remembered is None else torch.cat([remembered, last], dim=1)
        if isinstance(module, GGUFFile):
            yield _Network(module.file, module.vocabulary, texts, is_step, None)
            return
        decoder: nn.Module = getattr(module, "decoder", module)
        config: Mapping[str, Any] = getattr(decoder, "config", {})
        if "vocabulary" not in config:
            raise UsageError("llama.cpp runs language models, and this is another network.")
        expected = None
        if TOLERANCES[self.precision] is not None and not isinstance(module, OneBlock):
            with evaluating(module, last) as (ready, arguments), torch.inference_mode():
                expected = ready(*arguments)
        with passing_folder("elastiform-") as folder:
            file = folder / "model.gguf"
            write(file, config, decoder.state_dict(), precision=self.precision)
            yield _Network(file, config["vocabulary"], texts, is_step, expected)


class OneBlock(nn.Module):
    """The calibrator: weights of a decoder of one block, which only llama.cpp runs; the same every time."""

    def __init__(self) -> None:
        super().__init__()
        hidden = MLP_RATIO * DIM
        self.config: dict[str, Any] = {
            "vocabulary": VOCABULARY,
            "context": TOKENS,
            "embed_dim": DIM,
            "num_heads": [HEADS],
            "heads_per_kv": 1,
            "head_dim": DIM // HEADS,
            "mlp_hidden": [hidden],
            "gated": True,
            "act": "silu",
            "qkv_bias": False,
            "qk_norm": False,
            "norm_eps": 1e-5,
            "rope_theta": 10_000.0,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embed = nn.Embedding(VOCABULARY, DIM)
            sides = {f"{side}_proj": nn.Linear(DIM, DIM, bias=False) for side in "qkv"}
            block = nn.Module()
            block.norm1, block.norm2 = nn.RMSNorm(DIM), nn.RMSNorm(DIM)
            block.attn = nn.ModuleDict({**sides, "proj": nn.Linear(DIM, DIM, bias=False)})
            ffn = {"fc1": nn.Linear(DIM, 2 * hidden, bias=False), "fc2": nn.Linear(hidden, DIM, bias=False)}
            block.mlp = nn.ModuleDict(ffn)
            self.blocks = nn.ModuleList([block])
            self.norm = nn.RMSNorm(DIM)
