"""Elastiform: neural architecture search for transformers, as a service and as a library.

import nas
job = nas.run({"data": "digit_pairs"})
job.front().to_pandas()
model = job.extract(knee=True)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from nas.analysis.comparison import Comparison
    from nas.analysis.explanation import Explanation
    from nas.analysis.gate import Gate
    from nas.analysis.what_if import WhatIf
    from nas.config import JobConfig
    from nas.generation import Generated
    from nas.results.front import ParetoFront
    from nas.results.optuna_study import Exported
    from nas.store import Job, Removed, Store
    from nas.training.finetuning import Outcome

__all__ = ["JobHandle", "job", "run"]


@dataclass(frozen=True)
class JobHandle:
    """A job in a store."""

    store: "Store"
    job: "Job"

    @property
    def name(self) -> str:
        return self.job.name

    def front(self, *others: "JobHandle", device: str | None = None) -> "ParetoFront":
        """The finalists, the fastest first; with other jobs of the same store what no other beats."""
        from nas.results.front import front  # noqa: PLC0415 - imports pandas

        return front(self.store, [self.job, *(other.job for other in others)], device=device)

    def compare(self, other: "JobHandle", **options: Any) -> "Comparison":
        """This front against that of another job of the same store; options: `nas.analysis.comparison`."""
        from nas.analysis.comparison import compare  # noqa: PLC0415 - imports pandas

        return compare(self.store, self.job, other.job, **options)

    def gate(self, limits: Sequence[str], *, device: str | None = None) -> "Gate":
        """Whether a measured subnet keeps limits such as `accuracy>=0.8` and `latency_ms<=12`."""
        from nas.analysis.gate import gate  # noqa: PLC0415 - imports pandas
        from nas.limits import Limit  # noqa: PLC0415

        return gate(self.store, self.job, list(map(Limit.parse, limits)), device=device)

    def explain(
        self,
        subnet: str | Mapping[str, Any],
        other: str | Mapping[str, Any] | None = None,
        *,
        device: str | None = None,
    ) -> "Explanation":
        """What each choice of a subnet is worth in quality and ms; of two, what makes their difference."""
        from nas.analysis.explanation import explain  # noqa: PLC0415 - imports SciPy

        return explain(self.store, self.job, subnet, other, device=device)

    def what_if(self, **question: Any) -> "WhatIf":
        """The front that another question would find, foretold; question: `nas.analysis.what_if.what_if`."""
        from nas.analysis.what_if import what_if  # noqa: PLC0415 - imports SciPy

        return what_if(self.store, self.job, **question)

    def drafts(self, subnet: str, **asked: Any) -> dict[str, Any]:
        """The best draft for a subnet of a language model; asked: `nas.analysis.drafts.Asked`."""
        from nas.analysis.drafts import Asked, drafts  # noqa: PLC0415 - imports torch
        from nas.progress import Silent  # noqa: PLC0415

        return drafts(self.store, self.job, subnet, Asked(**asked), progress=Silent())

    def finetune(self, subnets: Sequence[str] | None = None, **options: Any) -> "Outcome":
        """Trains subnets of the front, or all of them, by themselves; options: `nas.training.finetuning`."""
        from nas.progress import Silent  # noqa: PLC0415
        from nas.training.finetuning import finetune  # noqa: PLC0415 - imports torch

        return finetune(self.store, self.job, subnets, **({"progress": Silent()} | options))

    def generate(self, where: Sequence[str] = (), count: int = 10, **options: Any) -> "Generated":
        """Architectures within limits such as `latency_ms<=3`, of a job that was searched generatively.

        options: `nas.generation.generate`.
        """
        from nas.generation import generate  # noqa: PLC0415 - imports torch
        from nas.limits import Limit  # noqa: PLC0415

        return generate(self.store, self.job, list(map(Limit.parse, where)), count, **options)

    def remove(self) -> "Removed":
        """Deletes the job with its results and files; nothing else can be asked of this handle then."""
        from nas.store import remove  # noqa: PLC0415

        return remove(self.store, self.job)

    def export_optuna(self, storage: str, *, study: str | None = None) -> "Exported":
        """Writes the search as a study to an Optuna storage, a journal file or a database's URL."""
        from nas.results.optuna_study import export  # noqa: PLC0415 - imports torch

        return export(self.store, self.job, storage, study=study)

    def extract(
        self,
        subnet: str | None = None,
        *,
        arch: Mapping[str, Any] | None = None,
        knee: bool = False,
        weights: str | None = None,
    ) -> "nn.Module":
        """A stand-alone module: the subnet with this key, of this architecture, or at the front's knee.

        weights: `inherited`, `specialised`, or what `finetune` made of them (`finetuned`, `scratch`); by
        default those with which the front reports the subnet.
        Raises ValueError unless exactly one of the first three is given.
        """
        if (subnet is not None) + (arch is not None) + knee != 1:
            raise ValueError("give either a subnet's key, an architecture or knee=True")
        from nas.results.extraction import extract  # noqa: PLC0415 - imports torch

        chosen = subnet if arch is None else arch
        chosen = self.front().knee().subnet if chosen is None else chosen
        return extract(self.store, self.job, chosen, weights=weights)


def job(name: str | int, *, store: "Store | str | None" = None) -> JobHandle:
    """A job that is there, by its name or number.

    store: an open one, which handles of several jobs are to share, or a URL.
    Raises NotFoundError.
    """
    from nas.store import Store, default_url  # noqa: PLC0415 - imports SQLAlchemy

    opened = store if isinstance(store, Store) else Store.open(store or default_url())
    try:
        return JobHandle(opened, opened.job(name))
    except BaseException:
        if opened is not store:
            opened.close()
        raise


def run(
    config: "JobConfig | Mapping[str, Any]", *, name: str | None = None, store: str | None = None
) -> JobHandle:
    """Runs a job to its front, as `nas run` does; `config` is what a job file holds, `store` a URL.

    Raises the errors of `search_spaces.errors`.
    """
    from nas import jobs, pipeline  # noqa: PLC0415 - import torch
    from nas.config import JobConfig, checked_config  # noqa: PLC0415 - only who runs a job pays for these
    from nas.progress import Silent  # noqa: PLC0415
    from nas.store import Store, default_url  # noqa: PLC0415

    checked = config if isinstance(config, JobConfig) else checked_config(config, where="The config")
    url = store or default_url()
    checked, used = jobs.with_supernet(url, checked)
    jobs.check(checked, used)
    opened = Store.open(url)
    try:
        job = jobs.create(opened, checked, name=name)
        pipeline.run(opened, job, progress=Silent())
    except BaseException:
        opened.close()
        raise
    return JobHandle(opened, opened.job(job.id))
