"""The command line and the dashboard answer at once: what is slow to import stays out until it is needed."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "ray", "timm", "optuna"}
NAS = str(Path(sysconfig.get_path("scripts")) / "nas")
COMMANDS = {
    "nas --help": [NAS, "--help"],
    "import nas.cli": [sys.executable, "-c", "import nas.cli"],
    "import dashboards.app": [sys.executable, "-c", "import dashboards.app"],
    "import nas.cli.server.app": [sys.executable, "-c", "import nas.cli.server.app"],
}


def imported(command: list[str]) -> set[str]:
    """The top-level modules that Python imports while it runs `command`."""
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    names = re.findall(r"^import time:.*\|\s*([\w.]+)$", ran.stderr, flags=re.MULTILINE)
    return {name.split(".")[0] for name in names}


def cpu_seconds(command: list[str]) -> float:
    """User plus system time of the child process."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_nothing_heavy_is_imported(command: list[str]) -> None:
    names = imported(command)
    assert "nas" in names or "dashboards" in names
    assert names & HEAVY == set()


def test_an_import_is_noticed() -> None:
    assert "optuna" in imported([sys.executable, "-c", "import optuna.distributions"])


def test_help_costs_little_more_than_the_command_line_library() -> None:
    """Side by side, the least of three of each: a busy machine slows both."""
    commands = [NAS, "--help"], [sys.executable, "-c", "import typer, typer.rich_utils"]
    seconds = [[cpu_seconds(list(command)) for command in commands] for _ in range(3)]
    ours, theirs = map(min, zip(*seconds, strict=True))
    assert ours < 3 * theirs
