"""What other jobs have paid for is found in the store before a subnet is evaluated again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nas.datasets import DataSet
from nas.evaluation import Evaluator, Failed, Scores
from nas.job_run import Run
from nas.store import EvaluationBasis
from search_spaces import Architecture, SearchSpace

if TYPE_CHECKING:
    from supernet.evaluation.probe import Probing

NONE: Scores = np.zeros(0, dtype=np.bool_)


def bases_of(run: Run, data: DataSet, torch_device: str) -> dict[str, EvaluationBasis]:
    """On what the job's evaluations with inherited weights depend, by the names of several supernets.

    Of a job with one under "". Empty where no supernet is noted.  torch_device: where they are computed.
    """
    # Siblings and GPUs change logits by rounding: who asks for the extracted subnet's bits takes no others.
    siblings, place = run.config.execution.siblings, torch_device.partition(":")[0]
    precision = f"fp32{'-siblings' if siblings else ''}{'' if place == 'cpu' else f'-{place}'}"
    return {
        use.name or "": EvaluationBasis(use.supernet.id, data.digest, precision)
        for use in run.store.supernets_of(run.lease.job)
    }


class StoredFirst:
    """An `Evaluator` that asks another one only for what the store does not know.

    The scores are those that the other one would give, so that nothing else changes. Of a whole split it
    keeps what it was asked for; parts are kept with the evaluations that are made of them.
    """

    def __init__(self, run: Run, space: SearchSpace, data: DataSet, evaluator: Evaluator) -> None:
        self._run, self._space, self._data, self._evaluator = run, space, data, evaluator
        self._stored: dict[str, Scores] = {}
        self._split = ""
        self._paid = set[str]()

    def scored(
        self, archs: Sequence[Architecture], split: str, images: slice | None = None
    ) -> list[Scores | Failed]:
        """For each architecture what it scores on the split's examples, or on these of them."""
        first, last = (0, self._data.sizes[split]) if images is None else (images.start, images.stop)
        self._look_up(archs, split, anew=first == 0)
        answers: list[Scores | Failed | None] = [
            self._stored[arch.key][first:last] if len(self._stored[arch.key]) >= last else None
            for arch in archs
        ]
        missing = [arch for arch, answer in zip(archs, answers, strict=True) if answer is None]
        if missing:
            paid = iter(self._evaluator.scored(missing, split, images))
            answers = [next(paid) if answer is None else answer for answer in answers]
            self._paid |= {arch.key for arch in missing}
        whole = [answer for answer in answers if answer is not None]
        if images is None:
            hits = {a.key: h for a, h in zip(archs, whole, strict=True) if not isinstance(h, Failed)}
            self._run.store.keep_hits(self._run.lease, split, hits)
        return whole

    def probe(self, archs: Sequence[Architecture]) -> "list[Probing | Failed]":
        """How each network reacts; this is not kept for others."""
        return self._evaluator.probe(archs)

    def is_reused(self, arch: Architecture) -> bool:
        """Whether nothing of the last evaluation, from the split's first example on, had to be paid for."""
        return arch.key in self._stored and arch.key not in self._paid

    def _look_up(self, archs: Sequence[Architecture], split: str, *, anew: bool) -> None:
        if anew or split != self._split:
            self._stored, self._split = {}, split
            self._paid -= {arch.key for arch in archs}
        parts = self._space.by_member({arch.key: arch for arch in archs if arch.key not in self._stored})
        for name, basis in self._run.lease.bases.items():
            own_keys = {key: arch.key for key, arch in parts.get(name, {}).items()}
            if own_keys:
                stored = self._run.store.stored_hits(basis, split, list(own_keys.values()))
                self._stored |= {key: stored.get(own_key, NONE) for key, own_key in own_keys.items()}


def stored_first(
    run: Run, space: SearchSpace, data: DataSet, evaluator: Evaluator, *, torch_device: str
) -> Evaluator:
    """The evaluator behind what the store knows, unless the job wants everything paid for again.

    From now on what the job evaluates is found by others.  torch_device: on which it evaluates.
    """
    run.lease.bases = bases_of(run, data, torch_device)
    if not run.lease.bases or not run.config.reuse:
        return evaluator
    return StoredFirst(run, space, data, evaluator)


def reused_keys(evaluator: Evaluator, archs: Sequence[Architecture]) -> set[str]:
    """The keys of those whose evaluation other jobs had paid for."""
    if not isinstance(evaluator, StoredFirst):
        return set()
    return {arch.key for arch in archs if evaluator.is_reused(arch)}
