"""A generative search that is interrupted and resumed ends as if nothing had happened."""

from pathlib import Path
from typing import Any

import pytest
from same_process import evaluating_here
from tiny_job import copied

from nas import pipeline
from nas.progress import Silent
from nas.search import stage as search_stage
from nas.store import Store

NAME = "generative"


def outcome(store: Store) -> dict[str, Any]:
    """What must not depend on interruptions."""
    job = store.job(NAME)
    rows = store.evaluations(job, "search")
    return {
        "rows": [(r.subnet.key, r.value, r.batch, r.position, r.objectives) for r in rows],
        "curve": [event.data for event in store.events(job, "generator")],
        "probes": [event.data for event in store.events(job, "probe")],
        "generators": [found.sha256 for found in store.artifacts(job, "generator")],
    }


def test_an_interrupted_search_ends_as_if_nothing_had_happened(
    generative_url: str, begun_generative: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = search_stage._Evaluated.add
    stop_at = [1, 3]

    def interrupted(self: Any, archs: Any) -> Any:
        if stop_at and self.batch == stop_at[0]:
            stop_at.pop(0)
            raise KeyboardInterrupt
        return add(self, archs)

    monkeypatch.setattr(search_stage._Evaluated, "add", interrupted)
    with evaluating_here(), Store.open(copied(begun_generative, tmp_path / "copy")) as stopped:
        for evaluations in (8, 24):
            with pytest.raises(KeyboardInterrupt):
                pipeline.run(stopped, stopped.job(NAME), progress=Silent())
            assert len(stopped.evaluations(stopped.job(NAME), "search")) == evaluations
        pipeline.run(stopped, stopped.job(NAME), progress=Silent())
        found = outcome(stopped)
    with Store.open(generative_url, read_only=True) as undisturbed:
        assert found == outcome(undisturbed)
    assert len(found["generators"]) == 1
