"""What README promises of `make quickstart`: the example as it stands, through the installed command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "quickstart.yaml"
MINUTES = 25  # a bound for a busy machine, not a claim


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES)
def test_the_quickstart_keeps_its_promise(tmp_path: Path, store_url: str) -> None:
    """At least 10 subnets; ends that differ by 5x in latency and 25 points on the report split; a figure."""
    nas = Path(sys.executable).with_name("nas")
    command = [nas, "run", EXAMPLE, "--store", store_url, "--json"]
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60 * MINUTES
    )
    assert ran.returncode == 0, ran.stderr
    front = json.loads(ran.stdout)["front"]
    latencies = [subnet["latency"]["measured_ms"] for subnet in front]
    accuracies = [subnet["quality"]["value"] for subnet in front]
    assert len(front) >= 10
    assert max(latencies) / min(latencies) >= 5
    assert accuracies[latencies.index(max(latencies))] - accuracies[latencies.index(min(latencies))] >= 0.25
    assert all(subnet["quality"]["stderr"] > 0 for subnet in front)
    assert (tmp_path / "quickstart-front.html").stat().st_size > 1_000_000
    assert all(f"nas {verb} " in ran.stderr for verb in ("front", "extract", "dashboard"))
