"""A PostgreSQL server of one's own: in a temporary folder, on loopback, as a user who is not root."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

USER = "elastiform"
SERVER_USER = "nobody"  # PostgreSQL refuses to run as root
QUICK = {"fsync": "on", "synchronous_commit": "on", "max_connections": "40", "shared_buffers": "16MB"}


def binaries() -> Path | None:
    """The folder with the server's programs; None where there are none."""
    found = shutil.which("pg_ctl")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


@dataclass(frozen=True)
class Server:
    """A cluster with one superuser, who needs no password."""

    programs: Path
    folder: Path
    port: int

    def url(self, database: str) -> str:
        """Of a store in one of its databases."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template1") -> str:
        """The URL of a new database."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Removes a database, whoever uses it."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = [f"-c {name}={value}" for name, value in QUICK.items()]
        options += [f"-p {self.port}", "-c listen_addresses=127.0.0.1", f"-k {self.folder}"]
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", str(log), "-o", " ".join(options), "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stops it; `immediate` is a crash."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def crash(self) -> None:
        """Kills the server and all its processes, without a word to anybody."""
        postmaster = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(postmaster, signal.SIGQUIT)
        with suppress(ProcessLookupError):
            while True:
                os.kill(postmaster, 0)
                time.sleep(0.02)

    def cut_connections(self, url: str) -> None:
        """Ends every connection to a database, as an administrator does it, or a proxy."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _run(self, program: str, *words: str) -> None:
        run(self.programs / program, *words, folder=self.folder)


def run(program: Path, *words: str, folder: Path) -> None:
    """One of the server's programs, as a user who may run it."""
    options = {} if os.getuid() else {"user": SERVER_USER, "group": pwd.getpwnam(SERVER_USER).pw_gid}
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C", "TZ": "UTC"}
    done = subprocess.run(
        [str(program), *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # the server inherits it: a pipe would never end
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=120,
        extra_groups=[] if options else None,
        **options,
    )
    assert done.returncode == 0, f"{program.name} {' '.join(words)}: {done.returncode}"


def new_server(folder: Path, programs: Path) -> Server:
    """A new cluster in an empty folder, started."""
    if not os.getuid():
        os.chown(folder, pwd.getpwnam(SERVER_USER).pw_uid, -1)
    words = ("-D", str(folder / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
    run(programs / "initdb", *words, folder=folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(programs, folder, port)
    server.start()
    return server


@contextmanager
def server_of(wanted: bool) -> Iterator[Server | None]:
    """A PostgreSQL server of the script's own, or None."""
    if not wanted:
        yield None
        return
    programs = binaries()
    if programs is None:
        sys.exit("no PostgreSQL server is installed (initdb and pg_ctl)")
    folder = Path(tempfile.mkdtemp(prefix="nas-pg-"))
    server = new_server(folder, programs)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
