"""A whole store copied into another database, its files included."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from nas.artifacts import write_atomic
from nas.errors import ConflictError, StoreError
from nas.store import tables as t
from nas.store.connection.engine import database_seconds, sqlite_file
from nas.store.connection.errors import os_words
from nas.store.connection.rows import ROOT
from nas.store.connection.schema import copy_store, is_empty, not_empty, prepare
from nas.store.files.claims import Claim, claim_of
from nas.store.files.places import Places
from nas.store.files.roots import Root
from nas.store.leases import held
from nas.store.records import Artifact


def move(source: str, target: str) -> Root:
    """Copies a store into an empty database of any kind; the root of the copy's files.

    The copy is a store of its own; the source stays as it is. Killed at any moment it leaves a target that is
    empty, and a folder that the next try replaces, or all of the copy.
    Raises ConflictError for a source at which somebody works, or a target that is not empty; StoreError for
    files that are not whole.
    """
    prepare(source, read_only=True)
    if not is_empty(target):
        raise not_empty(target)
    with Places(source, read_only=True) as store:
        _check_idle(store)
        artifacts = [one for one in store.all_artifacts() if one.kind != ROOT]
        _check_whole(store.artifact_root, artifacts)
        file = sqlite_file(target)
        place = _place_on_server(target) if file is None else f"file:{file.name}"
        identity = _identity(store.identity, target if file is None else str(file), place)
        root = Places.root_of(target, identity)
        _copy_files(store.artifact_root, root, identity, place, artifacts)
    if file is None:
        copy_store(source, target, identity=identity)
    else:
        _copy_into_file(source, file, identity)
    return root


def _copy_into_file(source: str, file: Path, identity: str) -> None:
    """Under another name first: there is no half of a store under this one."""
    try:
        write_atomic(file, lambda partial: copy_store(source, f"sqlite:///{partial}", identity=identity))
    except OSError as error:
        raise StoreError(f"The store '{file}' cannot be written: {os_words(error)}.") from error


def _place_on_server(target: str) -> str:
    with Places(target, read_only=True) as database:
        return database.place_on_server()


def _identity(*parts: str) -> str:
    """The same whenever the same store is moved to the same place, so that a second try knows the first."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]


def _check_idle(store: Places) -> None:
    for table, what in ((t.jobs, "job"), (t.supernets, "supernet")):
        c = table.c
        query = sa.select(c.name, c.owner, c.lease_until, database_seconds().label("moment"))
        with store.read() as connection:
            rows = connection.execute(query.where(c.owner.is_not(None))).all()
        for row in rows:
            if held(row.owner, row.lease_until, row.moment):
                raise ConflictError(
                    f"A process is at work at {what} '{row.name}': what it writes now would be lost.",
                    "End workers and jobs of the store, then move it.",
                )


def _check_whole(root: Root, artifacts: Sequence[Artifact]) -> None:
    for artifact in artifacts:
        if (wrong := root.damage(artifact)) is not None:
            raise StoreError(
                f"The file '{artifact.path}' in '{root}' {wrong}.",
                "Restore it, or remove its job (`nas rm`); `nas db check` lists all.",
            )


def _copy_files(source: Root, root: Root, identity: str, place: str, artifacts: Sequence[Artifact]) -> None:
    """The files in a root of the copy's own, checked. What an earlier try has left there goes."""
    claim = claim_of(root)
    if root.exists():
        if claim is None or claim.store != identity:
            raise ConflictError(
                f"The {root.called} is there already.", "Move it away, or name another target."
            )
        root.clear()
    if not root.receive(source, artifacts, lambda number: Claim(identity, place, number).text):
        raise ConflictError(f"Another process has just made '{root}'.", "Try again when it has ended.")
    _check_whole(root, artifacts)
