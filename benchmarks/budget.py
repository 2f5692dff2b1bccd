"""Whether jobs end when their budget in time is over: the seconds that they took, and what was made of them.

    python benchmarks/budget.py [--budgets 60 180 600] [--job examples/quickstart.yaml]

Each job runs in a fresh store. On a busy machine the calibration and the pace of the last batch may be off.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import nas
from nas.config import yaml

PARTS = ("train.steps", "search.evaluations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--budgets", type=float, nargs="+", default=[60.0, 180.0, 600.0], metavar="SECONDS")
    parser.add_argument("--job", type=Path, default=Path("examples/quickstart.yaml"))
    arguments = parser.parse_args()
    print("budget s | took s | of it | training s | search s | steps | planned evaluations | evaluations")
    for budget in arguments.budgets:
        print(
            " | ".join(map(str, row(with_budget(yaml.read_file(arguments.job), budget), budget))), flush=True
        )


def with_budget(tree: Any, budget: float) -> dict[str, Any]:
    """The job without the numbers that a budget becomes."""
    for part in PARTS:
        section, _, field = part.partition(".")
        if isinstance(tree.get(section), dict):
            tree[section].pop(field, None)
    return {**tree, "budget": budget}


def row(config: dict[str, Any], budget: float) -> list[object]:
    """What became of a job with this budget."""
    with tempfile.TemporaryDirectory() as folder:
        handle = nas.run(config, store=f"sqlite:///{folder}/nas.db")
        with handle.store as store:
            job = store.job(handle.job.id)
            stages = {stage.name: stage for stage in store.stages(job)}
            spans = {
                name: (stage.finished_at - stage.started_at).total_seconds()
                for name, stage in stages.items()
                if stage.finished_at is not None
            }
            assert job.started_at is not None
            assert job.finished_at is not None
            took = (job.finished_at - job.started_at).total_seconds()
            planned = stages["budget"].told("search", "evaluations")
            evaluated = stages["search"].told("evaluations")
    spent = [round(spans[name], 1) for name in ("train", "search")]
    return [
        budget,
        round(took, 1),
        f"{took / budget:.2f}",
        *spent,
        job.config["train"]["steps"],
        planned,
        evaluated,
    ]


if __name__ == "__main__":
    main()
