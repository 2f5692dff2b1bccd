"""The files in `deploy/`: what can be checked of them without systemd, Docker and Slurm."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
import yaml

from nas.cli import app
from nas.cli.options import Flags

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PAGES = [ROOT / "README.md", DEPLOY / "README.md", ROOT / "docs" / "team.md"]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    return loaded


def commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every `nas` command line of the files, and of the pages about them, by where it stands."""
    for unit in UNITS:
        text = unit.read_text().replace("\\\n", " ")
        for line in re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE):
            program, *words = shlex.split(line)
            assert program.endswith("/nas"), unit
            yield unit.name, tuple(words)
    for name, service in compose()["services"].items():
        if (command := service.get("command")) is not None:
            assert command[0] == "nas", name
            yield f"compose.yaml: {name}", tuple(command[1:])
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    yield "Dockerfile", tuple(yaml.safe_load(re.findall(r"^CMD (.+)$", dockerfile, re.MULTILINE)[0])[1:])
    for path in [DEPLOY / "slurm" / "worker.sbatch", *PAGES]:
        for line in path.read_text().splitlines():
            found = re.match(
                r"(?:docker compose .*worker |exec |(?:mine|other)\$ +|[A-Z_]+=\S+ )?nas (?!is |does )(.+)",
                line,
            )
            if found and not line.startswith("nas:"):
                yield f"{path.name}: {line}", tuple(shlex.split(found[1], comments=True))


COMMANDS = list(commands())


def parsed(words: tuple[str, ...]) -> None:
    """Raises what the real command line raises for these words; nothing is run."""
    command: Any = typer.main.get_command(app)
    context = click.Context(command, info_name="nas", obj=Flags())
    rest = [word for word in words if word not in ("--quiet", "--debug")]
    while rest and hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
        if hasattr(command, "commands"):
            context = click.Context(command, info_name=name, parent=context)
        else:
            context = command.make_context(name, list(rest), parent=context)


def test_commands_are_found_everywhere() -> None:
    places = {where.split(":")[0] for where, _ in COMMANDS}
    assert places >= {unit.name for unit in UNITS} | {"compose.yaml", "Dockerfile", "worker.sbatch"}
    assert places >= {page.name for page in PAGES}


@pytest.mark.parametrize("words", dict.fromkeys(words for _, words in COMMANDS), ids=shlex.join)
def test_the_command_line_takes_every_command(words: tuple[str, ...]) -> None:
    parsed(words)


@pytest.mark.parametrize("words", [("worker", "--once", "--gpu", "0"), ("wroker",), ("db", "upgarde")])
def test_a_command_that_is_none_is_noticed(words: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match="No such"):
        parsed(words)


def test_units_are_right(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    program = tmp_path / "nas"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copies = []
    for unit in UNITS:
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/opt/elastiform/bin/nas", str(program)))
        copies.append(str(copy).replace("@.", "@1."))
        if "@" in unit.name:
            shutil.copy(copy, copies[-1])
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=one", *copies],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    ours = [line for line in ran.stderr.splitlines() if "elastiform" in line]
    assert (ours, ran.returncode) == ([], 0), ran.stderr


def test_units_say_what_they_need() -> None:
    texts = {unit.name: unit.read_text() for unit in UNITS}
    assert len(texts) == 3
    for name in ("elastiform-worker@.service", "elastiform-serve.service"):
        assert "Requires=elastiform-store.service" in texts[name]
        assert "After=elastiform-store.service" in texts[name]
    assert "postgresql.service" in texts["elastiform-store.service"]
    assert "KillMode=mixed" in texts["elastiform-worker@.service"]
    for text in texts.values():
        assert "User=elastiform" in text
        assert "EnvironmentFile=/etc/elastiform/environment" in text


SERVICE_KEYS = {
    *("build", "command", "depends_on", "deploy", "environment", "healthcheck", "image", "init", "ports"),
    *("profiles", "restart", "secrets", "stop_grace_period", "volumes"),
}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


def test_the_compose_file_is_one() -> None:
    file = compose()
    assert {key for key in file if not key.startswith("x-")} == {"name", "services", "volumes", "secrets"}
    for name, service in file["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        assert service["image"], name
        for other, how in service.get("depends_on", {}).items():
            assert other in file["services"], name
            assert how["condition"] in CONDITIONS, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in file["services"][other], name
        for volume in service.get("volumes", ()):
            source = volume.rpartition(":")[0] if volume.count(":") == 1 else volume
            assert source.split(":")[0] in file["volumes"] or source.startswith(("./", "${")), name
        assert set(service.get("secrets", ())) <= set(file["secrets"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    everything = (DEPLOY / "docker" / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)", everything)) == {"POSTGRES_PASSWORD", "DATA_FOLDER"}
    assert re.findall(r"PASSWORD: (?!\"\$\{)", everything) == []


def test_the_image_copies_what_is_installed() -> None:
    lines = (DEPLOY / "docker" / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", lines, re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    packages = {"nas", "search_spaces", "predictors", "supernet", "dashboards"}
    assert packages | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == set(names)
    assert all((ROOT / name).exists() for name in names)
    assert re.search(r"^USER elastiform$", lines, re.MULTILINE)


def test_scripts_are_bash() -> None:
    scripts = [path for path in DEPLOY.rglob("*") if path.is_file() and path.read_text().startswith("#!")]
    assert [script.name for script in scripts] == ["worker.sbatch"]
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_files_hold_no_secret_and_no_place_of_one_machine() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"/home/(?!elastiform)|/root/", text), path
            assert str(DEPLOY.parent) not in text, path
            assert sys.prefix not in text, path
