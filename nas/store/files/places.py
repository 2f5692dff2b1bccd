"""Where the files of a store lie, and that they are its own: found when asked for, claimed before a write."""

import hashlib
import os
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import platformdirs
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from nas.errors import StoreError
from nas.store import tables as t
from nas.store.connection.database import Database, fetch
from nas.store.connection.engine import connect_sqlite, shown, sqlite_file
from nas.store.connection.errors import is_lost, store_error
from nas.store.connection.patience import again
from nas.store.connection.rows import ROOT
from nas.store.files import claims
from nas.store.files.claims import Claim
from nas.store.files.folder import Folder
from nas.store.files.remote import Remote, is_url
from nas.store.files.roots import Root
from nas.store.records import Artifact
from nas.store.values import now


class Places(Database):
    """The place of a store's files: a folder or, of a store on a server, what NAS_ARTIFACTS names."""

    _home: str | None = None  # of a server's database: by what a copy of it is told from it
    _remote: Remote | None = None  # it remembers that it has answered

    @property
    def artifact_root(self) -> Root:
        """Where the store's files lie, to read from; it need not be there."""
        root = self._new_root()
        return root if isinstance(root, Remote) else self._root_and_claim()[0]

    def check_root(self) -> None:
        """Raises StoreError when the place is another store's, or not the one that other machines see: a job
        could not write to it, or what it writes would be nowhere for them.

        A server's store gets its token here, before its first job.
        """
        root, claim = self._root_and_claim()
        if claim is not None and not self._is_own(root, claim) and root == self._new_root():
            raise self._not_own(root, claim)
        if self._file is None and not self._sees_token(root) and not self.read_only:
            self._put_token()

    def own_root(self) -> Root:
        """The place, which is this store's from now on. Raises StoreError when it is another's."""
        return self._owned()[0]

    def removable(self, files: Sequence[str]) -> list[str]:
        """Those of the files that are this store's to remove."""
        root, claim = self._owned()
        return [inner for inner in files if root.holds(inner) and inner not in claim.others]

    def is_shared(self) -> bool:
        """Whether a store that was not upgraded yet may write to the folder, which knows of no owner."""
        root = self.artifact_root
        if root == self._new_root() or not isinstance(root, Folder):
            return False
        if self._file is None:
            return True  # of any database of any server
        beside = root.path.parent.iterdir()
        return any(_is_old_store(file) for file in beside if file.with_suffix(".artifacts") == root.path)

    def adopt(self) -> Root:
        """Takes over the place of the store that this one's database is a copy of, or was moved from.

        Raises StoreError when there is none, or when it is that of another store.
        """
        root = self._new_root()
        claim = claims.claim_of(root)
        if claim is None or claim.store != self.identity:
            raise StoreError(
                f"'{root}' is no folder of this store's files.", "Copy or move the folder there first."
            )
        claims.renew(root, claim, self._database(root))
        return root

    def _sees_token(self, root: Root) -> bool:
        """Whether the store has a token, and the place holds it. Raises StoreError where it does not."""
        token = self._token()
        if token is None:
            return False
        if root.damage(token) is None:
            return True
        raise StoreError(
            f"The {root.called} is not the one that holds the files of {shown(self.url)}: "
            f"its '{token.path}' is not there.",
            "Set NAS_ARTIFACTS to the folder or URL that all machines of the store share; is it mounted?",
        )

    @again
    def _token(self) -> Artifact | None:
        """The file by which this database's place is known; that of a database which this one is a copy of
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
        root, name, text = self.own_root(), f"{self._token_name()}{uuid.uuid4().hex}", f"{uuid.uuid4().hex}\n"
        root.write(name, text)
        if not self._record_token(name, text.encode()):
            root.remove(name)
            self._sees_token(root)

    @again
    def _record_token(self, name: str, content: bytes) -> bool:
        """Whether the token is the store's from now on; False where it has one."""
        c, values = t.artifacts.c, {"kind": ROOT, "path": name, "created_at": now()}
        values |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
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
        """What the store's place says, if it is there and this store's."""
        root, claim = self._root_and_claim()
        return claim if claim is not None and self._is_own(root, claim) else None

    def _owned(self) -> tuple[Root, Claim]:
        for _ in range(claims.CLAIM_TRIES):
            root, claim = self._root_and_claim()
            database = self._database(root)
            if claim is not None and self._is_own(root, claim):
                if claim.database != database or claims.is_copy(root, claim):
                    claims.renew(root, claim, database)
                return root, claim
            if claim is None:
                claims.take(root, self.identity, database, self.all_artifacts())
            elif root == self._new_root():
                raise self._not_own(root, claim)
            else:
                self._have_own_copies(root)
        raise StoreError(f"Other processes change '{root}' all the time.", "End them, then try again.")

    def _have_own_copies(self, shared: Root) -> None:
        new, identity = self._new_root(), self.identity
        database = self._database(new)
        new.receive(shared, self.all_artifacts(), lambda number: Claim(identity, database, number).text)

    def _root_and_claim(self) -> tuple[Root, Claim | None]:
        new = self._new_root()
        old = [root for root in self._old_roots() if root != new]
        roots: list[Root] = [new, *old]
        marked = [claims.claim_of(root) for root in roots]
        for root, claim in zip(roots, marked, strict=True):
            if claim is not None and self._is_own(root, claim):
                return root, claim
        if any(root.path.is_dir() for root in old) and not new.exists():
            artifacts = self.all_artifacts()
            for root, claim in zip(old, marked[1:], strict=True):
                if claims.holds_some(root, artifacts):
                    return root, claim
        return new, marked[0]

    def _new_root(self) -> Root:
        root = self.root_of(self.url, None if self._file is not None else self.identity)
        if not isinstance(root, Remote):
            return root
        if self._remote != root:
            root.waits = self.waits
            self._remote = root
        return self._remote

    @classmethod
    def root_of(cls, url: str, identity: str | None) -> Root:
        """Where the files of a store lie. identity: of one on a server."""
        if (file := sqlite_file(url)) is not None:
            file = file.resolve()
            return Folder(file.with_name(f"{file.name}.artifacts"))
        if is_url(_named()):
            return Remote(_below(_named(), identity))
        return Folder(_shared_folder() / f"store-{identity}")

    def _old_roots(self) -> list[Folder]:
        """Where stores of schemas 0001 to 0003 have their files."""
        if self._file is None:
            return [] if is_url(_named()) else [Folder(_shared_folder())]
        files = (self._file, self._file.resolve())
        return [Folder(path) for path in dict.fromkeys(file.with_suffix(".artifacts") for file in files)]

    def _database(self, root: Root) -> str:
        if not isinstance(root, Folder) or self._file is None:
            return self.place_on_server()
        return f"file:{os.path.relpath(self._file.resolve(), root.path.resolve().parent)}"

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

    def _is_own(self, root: Root, claim: Claim) -> bool:
        if claim.store != self.identity:
            return False
        if claim.database == self._database(root) or claims.is_copy(root, claim):
            return True
        kind, _, where = claim.database.partition(":")
        # A copy of the database that shares the folder with the original must leave it alone.
        beside = root.path.resolve().parent / where if isinstance(root, Folder) else None
        return kind == "file" and beside is not None and _identity_of(beside) != claim.store

    def _not_own(self, root: Root, claim: Claim) -> StoreError:
        if claim.store == self.identity:
            sentence = f"The {root.called} is that of the store that {shown(self.url)} is a copy of."
            hint = "If that one is gone for good: `nas db adopt`. Else give this one a folder of its own: "
            way = "remove the link" if self._file is not None else "set NAS_ARTIFACTS to another one"
            return StoreError(sentence, f"{hint}{way}.")
        sentence = f"The {root.called} holds the files of another store, not of {shown(self.url)}."
        if self._file is not None:
            return StoreError(sentence, "Move it away if that store is gone, or name the store otherwise.")
        return StoreError(sentence, "Set NAS_ARTIFACTS to another folder.")


def _named() -> str:
    """Where the user wants the files of stores on servers."""
    return os.environ.get("NAS_ARTIFACTS") or ""


def _below(url: str, identity: str | None) -> str:
    return f"{url.rstrip('/')}/store-{identity}"


def _shared_folder() -> Path:
    named = _named()
    return Path(named).absolute() if named else platformdirs.user_data_path("elastiform") / "artifacts"


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
