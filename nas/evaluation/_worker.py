"""What a process does that evaluates: it holds the supernet and the data, and answers."""

import platform
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

import search_spaces
import supernet
from nas import datasets
from nas.evaluation._setup import EvaluationSetup
from nas.evaluation._tasks import BATCH, Hits
from search_spaces import Architecture
from search_spaces._errors import JobFailedError
from supernet._evaluate import correct
from supernet._prefix_cache import PrefixCache
from supernet._probe import Probing, probe
from supernet._steps import shared_steps

PROBED = 64
MOST_KEPT = 8  # times the supernet's weights, by all steps of its architectures


class EvaluationWorker:
    """The supernet with its weights (the bytes of a safetensors file) and the data set, once a process."""

    def __init__(self, setup: EvaluationSetup, weights: bytes) -> None:
        self._setup, self._weights = setup, weights

    def begin(self) -> None:
        """Builds the supernet and the data set; what else is asked comes after this.

        Raises JobFailedError where the data are not those of the job, and what building either raises.
        """
        setup = self._setup
        torch.set_num_threads(setup.threads)
        net = supernet.build(search_spaces.get(setup.family, **setup.space_options))
        net.shared.load_state_dict(load(self._weights), strict=True)
        self._weights = b""
        self._net = net.to(setup.torch_device).eval()
        self._steps = shared_steps(self._net)
        self._most_params = MOST_KEPT * sum(weight.numel() for weight in self._net.shared.parameters())
        self._cache = PrefixCache(setup.cache_mib * 2**20) if setup.cache_mib else None
        self._data = datasets.build(setup.data_name, **setup.data_options)
        if self._data.digest != setup.data_digest:
            raise JobFailedError(
                f"The data set '{setup.data_name}' on '{platform.node()}' is not the one that the job has.",
                "Every machine that evaluates needs the same files in the same place.",
            )

    def correct(self, archs: Sequence[Architecture], split: str, images: slice) -> Hits:
        """Which examples of one batch each architecture classifies right: (architectures, examples)."""
        if self._steps.params > self._most_params:
            self._steps = shared_steps(self._net)
        hits = correct(
            self._net,
            archs,
            self._batches(split, images),
            siblings=self._setup.siblings,
            steps=self._steps,
            cache=self._cache,
            ids=None if self._cache is None else [(split, images.start, images.stop)],
        )
        return np.stack([hits[arch].cpu().numpy() for arch in archs])

    def probe(self, archs: Sequence[Architecture]) -> list[Probing]:
        """How each network reacts to the first PROBED examples of `search`."""
        x, labels = next(self._batches("search", slice(PROBED)))
        return [probe(self._net, arch, x, labels) for arch in archs]

    def _batches(self, split: str, images: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """On the evaluating device."""
        device = self._setup.torch_device
        return ((x.to(device), labels.to(device)) for x, labels in self._data.batches(split, BATCH, images))
