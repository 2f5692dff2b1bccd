"""What a process does that evaluates: it holds the supernet and the data, and answers."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

import search_spaces
import supernet
from nas import datasets
from nas.errors import JobFailedError
from nas.evaluation.tasks import EvaluationSetup, SharedWeights
from nas.evaluation.workers import OutOfMemoryError
from search_spaces import Architecture
from search_spaces.union import taken_apart
from supernet.evaluation.prefix_cache import PrefixCache
from supernet.evaluation.probe import Probing, probe
from supernet.evaluation.scores import scored
from supernet.evaluation.steps import Steps, shared_steps
from supernet.tasks import Scores
from supernet.tasks import get as task_of

PROBED = 64
# What a RuntimeError of torch's says when the system has no memory for it.
REFUSED = ("DefaultCPUAllocator", "std::bad_alloc")
MOST_KEPT = 8  # times the supernet's weights, by all steps of its architectures


class _Net:
    """A supernet with its weights (the bytes of a safetensors file), and what is remembered of it."""

    def __init__(self, shared: SharedWeights, weights: bytes, torch_device: str, cache_bytes: int) -> None:
        net = supernet.build(search_spaces.get(shared.family, **shared.space_options))
        net.shared.load_state_dict(load(weights), strict=True)
        self.net = net.to(torch_device).eval()
        self.cache = PrefixCache(cache_bytes) if cache_bytes else None
        self._steps = shared_steps(self.net)
        self._most_params = MOST_KEPT * sum(weight.numel() for weight in self.net.shared.parameters())

    @property
    def steps(self) -> Steps:
        """Those made so far, unless they keep too many weights."""
        if self._steps.params > self._most_params:
            self._steps = shared_steps(self.net)
        return self._steps


class EvaluationWorker:
    """The supernets with their weights and the data set, once a process.

    weights: the bytes of safetensors files, in the order of the setup's supernets.
    """

    def __init__(self, setup: EvaluationSetup, *weights: bytes) -> None:
        self._setup, self._weights = setup, weights

    def begin(self) -> None:
        """Builds the supernets and the data set; what else is asked comes after this.

        Raises JobFailedError where the data are not those of the job, and what building either raises.
        """
        setup = self._setup
        torch.set_num_threads(setup.threads)
        cache_bytes = setup.cache_mib * 2**20 // len(setup.supernets)
        self._nets = {
            name: _Net(shared, weights, setup.torch_device, cache_bytes)
            for (name, shared), weights in zip(setup.supernets.items(), self._weights, strict=True)
        }
        self._weights = ()
        self._data = datasets.build(setup.data_name, **setup.data_options)
        if self._data.digest != setup.data_digest:
            raise JobFailedError(
                f"The data set '{setup.data_name}' on '{platform.node()}' is not the one that the job has.",
                "Every machine that evaluates needs the same files in the same place.",
            )

    def scored(self, archs: Sequence[Architecture], split: str, examples: slice) -> Scores:
        """What each architecture scores on the examples of one batch: (architectures, examples).

        Raises OutOfMemoryError, as `probe` does.
        """
        with _memory_told():
            return self._scored(archs, split, examples)

    def _scored(self, archs: Sequence[Architecture], split: str, examples: slice) -> Scores:
        rows: dict[int, Scores] = {}
        for name, places in self._by_supernet(archs).items():
            one, member_archs = self._nets[name], [_own(name, archs[i]) for i in places]
            scores = scored(
                one.net,
                member_archs,
                self._batches(split, examples),
                task=task_of(self._setup.task),
                siblings=self._setup.siblings,
                steps=one.steps,
                cache=one.cache,
                ids=None if one.cache is None else [(split, examples.start, examples.stop)],
            )
            rows |= {i: scores[arch].cpu().numpy() for i, arch in zip(places, member_archs, strict=True)}
        return np.stack([rows[i] for i in range(len(archs))])

    def probe(self, archs: Sequence[Architecture]) -> list[Probing]:
        """How each network reacts to the first PROBED examples of `search`."""
        with _memory_told():
            x, targets = next(self._batches("search", slice(PROBED)))
            task = task_of(self._setup.task)
            return [
                probe(self._nets[name].net, _own(name, arch), x, targets, task=task)
                for arch in archs
                for name in self._by_supernet([arch])
            ]

    def _by_supernet(self, archs: Sequence[Architecture]) -> dict[str, list[int]]:
        """The places of the architectures of each supernet."""
        places: dict[str, list[int]] = {}
        for i, arch in enumerate(archs):
            places.setdefault("" if "" in self._nets else taken_apart(arch)[0], []).append(i)
        return places

    def _batches(self, split: str, examples: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """On the evaluating device."""
        device = self._setup.torch_device
        batches = self._data.batches(split, self._setup.batch, examples)
        return ((x.to(device), targets.to(device)) for x, targets in batches)


@contextmanager
def _memory_told() -> Iterator[None]:
    """OutOfMemoryError for what Python, NumPy or torch raise when they are refused memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in words for word in REFUSED):
            raise OutOfMemoryError(words[:200]) from None
        raise


def _own(name: str, arch: Architecture) -> Architecture:
    """The architecture in the space of its supernet."""
    return taken_apart(arch)[1] if name else arch
