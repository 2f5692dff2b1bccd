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

    from nas.config import JobConfig
    from nas.finetuning import Outcome
    from nas.front import ParetoFront
    from nas.generation import Generated
    from nas.optuna_study import Exported
    from nas.store import Job, Store

__all__ = ["JobHandle", "run"]


@dataclass(frozen=True)
class JobHandle:
    """A job in a store."""

    store: "Store"
    job: "Job"

    @property
    def name(self) -> str:
        return self.job.name

    def front(self) -> "ParetoFront":
        """The finalists, the fastest first."""
        from nas.front import front  # noqa: PLC0415 - imports pandas

        return front(self.store, [self.job])

    def finetune(self, subnets: Sequence[str] | None = None, **options: Any) -> "Outcome":
        """Trains subnets of the front, or all of them, by themselves; options: `nas.finetuning`."""
        from nas.finetuning import finetune  # noqa: PLC0415 - imports torch
        from nas.progress import Silent  # noqa: PLC0415

        return finetune(self.store, self.job, subnets, **({"progress": Silent()} | options))

    def generate(self, where: Sequence[str] = (), count: int = 10, **options: Any) -> "Generated":
        """Architectures for conditions such as `latency_ms<=3`, of a job that was searched generatively.

        options: `nas.generation.generate`.
        """
        from nas.conditions import Condition  # noqa: PLC0415
        from nas.generation import generate  # noqa: PLC0415 - imports torch

        return generate(self.store, self.job, list(map(Condition.parse, where)), count, **options)

    def export_optuna(self, storage: str, *, study: str | None = None) -> "Exported":
        """Writes the search as a study to an Optuna storage, a database URL."""
        from nas.optuna_study import export  # noqa: PLC0415 - imports torch

        return export(self.store, self.job, storage, study=study)

    def extract(
        self,
        subnet: str | None = None,
        *,
        arch: Mapping[str, Any] | None = None,
        knee: bool = False,
        weights: str = "inherited",
    ) -> "nn.Module":
        """A stand-alone module: the subnet with this key, of this architecture, or at the front's knee.

        weights: `inherited`, or what `finetune` made of them (`finetuned`, `scratch`).
        Raises ValueError unless exactly one of the first three is given.
        """
        if (subnet is not None) + (arch is not None) + knee != 1:
            raise ValueError("give either a subnet's key, an architecture or knee=True")
        from nas.extraction import extract  # noqa: PLC0415 - imports torch

        chosen = subnet if arch is None else arch
        chosen = self.front().knee().subnet if chosen is None else chosen
        return extract(self.store, self.job, chosen, weights=weights)


def run(
    config: "JobConfig | Mapping[str, Any]", *, name: str | None = None, store: str | None = None
) -> JobHandle:
    """Runs a job to its front, as `nas run` does; `config` is what a job file holds, `store` a URL.

    Raises the errors of `search_spaces._errors`.
    """
    from nas import jobs, pipeline  # noqa: PLC0415 - import torch
    from nas.config import JobConfig, checked_config  # noqa: PLC0415 - only who runs a job pays for these
    from nas.progress import Silent  # noqa: PLC0415
    from nas.store import Store, default_url  # noqa: PLC0415

    checked = config if isinstance(config, JobConfig) else checked_config(config, where="The config")
    jobs.check(checked)
    opened = Store.open(store or default_url())
    try:
        job = jobs.create(opened, checked, name=name)
        pipeline.run(opened, job, progress=Silent())
    except BaseException:
        opened.close()
        raise
    return JobHandle(opened, opened.job(job.id))
