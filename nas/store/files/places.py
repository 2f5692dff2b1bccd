"""Where the files of a store lie, and that they are its own: found when asked for, claimed before a write."""

import hashlib
import os
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import platformdirs
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from nas.artifacts import damage, is_inside, sha256, write_atomic
from nas.errors import StoreError
from nas.store import tables as t
from nas.store.connection.database import Database, fetch
from nas.store.connection.engine import connect_sqlite, shown, sqlite_file
from nas.store.connection.errors import is_lost, store_error
from nas.store.connection.patience import again
from nas.store.connection.rows import ROOT
from nas.store.files import folder
from nas.store.files.folder import Claim
from nas.store.records import Artifact
from nas.store.values import now


class Places(Database):
    """The artifact folder of a store."""

    _home: str | None = None  # of a server's database: by what a copy of it is told from it

    @property
    def artifact_root(self) -> Path:
        """The folder of the store's files, to read from; it need not be there."""
        return self._root_and_claim()[0]

    def check_root(self) -> None:
        """Raises StoreError when the folder is another store's, or not the one that other machines see: a job
        could not write to it, or what it writes would be nowhere for them.

        A server's store gets its token here, before its first job.
        """
        root, claim = self._root_and_claim()
        if claim is not None and not self._is_own(root, claim) and root == self._new_root():
            raise self._not_own(root, claim)
        if self._file is None and not self._sees_token(root) and not self.read_only:
            self._put_token()

    def own_root(self) -> Path:
        """The folder, which is this store's from now on. Raises StoreError when it is another's."""
        return self._owned()[0]

    def removable(self, path: Path) -> bool:
        """Whether a file in the folder is this store's to remove."""
        root, claim = self._owned()
        inside = is_inside(root, path.parent) and path.is_relative_to(root)
        return inside and path.relative_to(root).as_posix() not in claim.others

    def is_shared(self) -> bool:
        """Whether a store that was not upgraded yet may write to the folder, which knows of no owner."""
        root = self.artifact_root
        if root == self._new_root():
            return False
        if self._file is None:
            return True  # of any database of any server
        beside = [file for file in root.parent.iterdir() if file.with_suffix(".artifacts") == root]
        return any(map(_is_old_store, beside))

    def adopt(self) -> Path:
        """Takes over the folder of the store that this one's database is a copy of, or was moved from.

        Raises StoreError when there is none, or when it is that of another store.
        """
        root = self._new_root()
        claim = folder.claim_of(root)
        if claim is None or claim.store != self.identity:
            raise StoreError(
                f"'{root}' is no folder of this store's files.", "Copy or move the folder there first."
            )
        folder.renew(root, claim, self._database(root))
        return root

    def _sees_token(self, root: Path) -> bool:
        """Whether the store has a token, and the folder holds it. Raises StoreError where it does not."""
        token = self._token()
        if token is None:
            return False
        if damage(folder.Rooted(root), token) is None:
            return True
        raise StoreError(
            f"The folder '{root}' is not the one that holds the files of {shown(self.url)}: "
            f"its '{token.path}' is not there.",
            "Set NAS_ARTIFACTS to the folder that all machines of the store share; is it mounted?",
        )

    @again
    def _token(self) -> Artifact | None:
        """The file by which this database's folder is known; that of a database which this one is a copy of
        is none.
        """
        c = t.artifacts.c
        of_this = (c.kind == ROOT) & c.path.startswith(self._token_name())
        with self.read() as connection:
            tokens = fetch(connection, Artifact, sa.select(t.artifacts).where(of_this))
        return next(iter(tokens), None)

    def _token_name(self) -> str:
        return f"token-{hashlib.sha256(self.place_on_server().encode()).hexdigest()[:8]}-"

    def _put_token(self) -> None:
        """Writes a token and then its row, unless another process is faster: then it must see the same."""
        root, name = self.own_root(), f"{self._token_name()}{uuid.uuid4().hex}"
        try:
            write_atomic(root / name, lambda partial: _write_text(partial, f"{uuid.uuid4().hex}\n"))
        except OSError as error:
            raise folder.unusable(root, error) from error
        if not self._record_token(root / name):
            (root / name).unlink(missing_ok=True)
            self._sees_token(root)

    @again
    def _record_token(self, file: Path) -> bool:
        """Whether the token is the store's from now on; False where it has one."""
        c, values = t.artifacts.c, {"kind": ROOT, "path": file.name, "created_at": now()}
        values |= {"sha256": sha256(file), "size": file.stat().st_size}
        with self.write() as connection:
            connection.execute(sa.select(t.store.c.id).with_for_update())  # one at a time
            ours = (c.kind == ROOT) & c.path.startswith(self._token_name())
            if connection.scalar(sa.select(c.id).where(ours)) is not None:
                return False
            connection.execute(sa.delete(t.artifacts).where(c.kind == ROOT))  # of a database it is a copy of
            connection.execute(sa.insert(t.artifacts).values(values))
            return True

    @again
    def all_artifacts(self) -> list[Artifact]:
        """The files of all jobs."""
        with self.read() as connection:
            return fetch(connection, Artifact, sa.select(t.artifacts).order_by(t.artifacts.c.id))

    def claim(self) -> Claim | None:
        """What the store's folder says, if it is there and this store's."""
        root, claim = self._root_and_claim()
        return claim if claim is not None and self._is_own(root, claim) else None

    def _owned(self) -> tuple[Path, Claim]:
        for _ in range(folder.CLAIM_TRIES):
            root, claim = self._root_and_claim()
            database = self._database(root)
            if claim is not None and self._is_own(root, claim):
                if claim.database != database or folder.is_copy(root, claim):
                    folder.renew(root, claim, database)
                return root, claim
            if claim is None:
                folder.take(root, self.identity, database, self.all_artifacts())
            elif root == self._new_root():
                raise self._not_own(root, claim)
            else:
                new = self._new_root()
                folder.copy_own(root, new, self.identity, self._database(new), self.all_artifacts())
        raise StoreError(f"Other processes change '{root}' all the time.", "End them, then try again.")

    def _root_and_claim(self) -> tuple[Path, Claim | None]:
        new = self._new_root()
        roots = [new, *(root for root in self._old_roots() if root != new)]
        claims = [folder.claim_of(root) for root in roots]
        for root, claim in zip(roots, claims, strict=True):
            if claim is not None and self._is_own(root, claim):
                return root, claim
        if not new.exists() and any(root.is_dir() for root in roots):
            artifacts = self.all_artifacts()
            for root, claim in zip(roots[1:], claims[1:], strict=True):
                if folder.holds_some(root, artifacts):
                    return root, claim
        return new, claims[0]

    def _new_root(self) -> Path:
        return self.root_of(self.url, None if self._file is not None else self.identity)

    @classmethod
    def root_of(cls, url: str, identity: str | None) -> Path:
        """Where the files of a store lie. identity: of one on a server."""
        if (file := sqlite_file(url)) is not None:
            file = file.resolve()
            return file.with_name(f"{file.name}.artifacts")
        return cls._shared_root() / f"store-{identity}"

    def _old_roots(self) -> list[Path]:
        """Where stores of schemas 0001 to 0003 have their files."""
        if self._file is None:
            return [self._shared_root()]
        return list(
            dict.fromkeys(file.with_suffix(".artifacts") for file in (self._file, self._file.resolve()))
        )

    @staticmethod
    def _shared_root() -> Path:
        named = os.environ.get("NAS_ARTIFACTS")
        return Path(named).absolute() if named else platformdirs.user_data_path("elastiform") / "artifacts"

    def _database(self, root: Path) -> str:
        if self._file is None:
            return self.place_on_server()
        return f"file:{os.path.relpath(self._file.resolve(), root.resolve().parent)}"

    @again
    def place_on_server(self) -> str:
        """The database on its server, other than by its address: a restored or copied one differs."""
        if self._home is None:
            query = sa.text("SELECT oid FROM pg_database WHERE datname = current_database()")
            with self.read() as connection:
                oid = connection.scalar(query)
            self._home = f"server:{self._cluster()}/{oid}"
        return self._home

    def _cluster(self) -> str:
        try:
            with self._begun(writes=False) as (connection, _):
                return str(connection.scalar(sa.text("SELECT system_identifier FROM pg_control_system()")))
        except DBAPIError as error:
            if is_lost(error):
                raise store_error(error, shown(self.url)) from error
            return "unknown"  # not every service lets its users ask

    def _is_own(self, root: Path, claim: Claim) -> bool:
        if claim.store != self.identity:
            return False
        if claim.database == self._database(root) or folder.is_copy(root, claim):
            return True
        kind, _, where = claim.database.partition(":")
        # A copy of the database that shares the folder with the original must leave it alone.
        return kind == "file" and _identity_of(root.resolve().parent / where) != claim.store

    def _not_own(self, root: Path, claim: Claim) -> StoreError:
        if claim.store == self.identity:
            sentence = f"The folder '{root}' is that of the store that {shown(self.url)} is a copy of."
            hint = "If that one is gone for good: `nas db adopt`. Else give this one a folder of its own: "
            way = "remove the link" if self._file is not None else "set NAS_ARTIFACTS to another one"
            return StoreError(sentence, f"{hint}{way}.")
        sentence = f"The folder '{root}' holds the files of another store, not of {shown(self.url)}."
        if self._file is not None:
            return StoreError(sentence, "Move it away if that store is gone, or name the store otherwise.")
        return StoreError(sentence, "Set NAS_ARTIFACTS to another folder.")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _identity_of(file: Path) -> str | None:
    """The identity of a SQLite store; None for anything else."""
    if not file.is_file():
        return None
    try:
        with closing(connect_sqlite(file, read_only=True)) as connection:
            row = connection.execute("SELECT uuid FROM store").fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])


def _is_old_store(file: Path) -> bool:
    """Whether it is a SQLite store of a schema without identities."""
    if not file.is_file():
        return False
    try:
        with closing(connect_sqlite(file, read_only=True)) as connection:
            names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error:
        return False
    return "alembic_version" in names and "store" not in names
