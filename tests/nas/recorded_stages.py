"""Which stages of a finished job a run would make anew, without making them.

As a program (`python recorded_stages.py URL CONFIG`), by code whose every section has got a field with a
default; it also prints what this code makes of a stored config.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest


def made_anew(url: str, config: dict[str, Any] | None = None) -> list[str]:
    """config: in place of the one that the only job of the store has stored."""
    from nas import pipeline  # noqa: PLC0415 - only when the sections are as they shall be
    from nas.job_run import Run  # noqa: PLC0415
    from nas.progress import Silent  # noqa: PLC0415
    from nas.store import Store  # noqa: PLC0415

    anew = []
    once = Run.once

    def recorded(run: Run, name: str, inputs: Any, make: Any) -> dict[str, Any]:
        stage = run.store.stage(run.lease.job, name)
        assert stage is not None
        assert stage.result is not None
        if run.known(name, inputs) is None:
            anew.append(name)
            run.store.begin_stage(run.lease, name, run.key(name, inputs))
            run.store.finish_stage(run.lease, name, stage.result)
        return once(run, name, inputs, make)

    with Store.open(url) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "once", recorded)
        patch.setattr(pipeline, "evaluator", lambda *_, **__: nullcontext())
        (job,) = store.jobs()
        pipeline.run(store, replace(job, config=config or job.config), progress=Silent())
    return anew


if __name__ == "__main__":
    from supernet.training import sections

    class Extended(sections.Section):
        """Above all sections that are declared from now on."""

        added_later: int = 7

    sections.Section = Extended  # type: ignore[misc]
    from nas.config.components import as_stored

    config = as_stored(json.loads(sys.argv[2]), where="here")
    whole = config.model_dump(mode="json")
    json.dump({"whole": whole, "inputs": config.inputs(), "anew": made_anew(sys.argv[1])}, sys.stdout)
