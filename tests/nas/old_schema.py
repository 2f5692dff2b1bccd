"""Stores as earlier versions left them: this code's without what came later."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nas.store.connection import schema

FILES = {1: b"first", 2: b"second"}


def as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, revision: str) -> None:
    """The code as it was when this revision was the newest."""
    folder = tmp_path / f"until-{revision}"
    if not folder.exists():
        shutil.copytree(schema.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (folder / "versions").glob("rev_*.py"):
        if file.stem.removeprefix("rev_") > revision:
            file.unlink()
    monkeypatch.setattr(schema, "MIGRATIONS", folder)


def make(file: Path, revision: str, tmp_path: Path) -> None:
    """An empty store of this revision."""
    with pytest.MonkeyPatch.context() as patch:
        as_it_was(patch, tmp_path, revision)
        schema.prepare(f"sqlite:///{file}", read_only=False)


def change(file: Path, *statements: str) -> None:
    """Writes past every rule."""
    with closing(sqlite3.connect(file)) as connection, connection:
        for sql in statements:
            connection.execute(sql)
