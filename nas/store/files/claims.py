"""Whose the files in a place are: `store.json` in it names the store, and nothing is removed without that.

The folder of a new store has a name of its own. One of the first three schemas shared its folder with every
store whose file has the same stem, or that lies on the same kind of server: such a folder becomes the first
store's whose files are whole there, and the others get copies of theirs in folders of their own.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas.store.files.roots import LONGEST_MARKER, Root, unreadable_marker
from nas.store.records import Artifact

CLAIM_TRIES = 5


@dataclass(frozen=True)
class Claim:
    """What a place says of the store that it belongs to.

    store: its identity.  database: where its database is, relative to where the folder is for a SQLite file.
    folder: the folder's inode, by which a copy of the folder is told from the folder; 0 of other places.
    others: files that were in the folder before it was the store's, and that are not among its own.
    """

    store: str
    database: str
    folder: int
    others: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As the marker says it."""
        return json.dumps(asdict(self), indent=1)


def claim_of(root: Root) -> Claim | None:
    """What the place says, None when it says nothing. Raises StoreError when that cannot be read."""
    text = root.marker()
    if text is None:
        return None
    try:
        if len(text) > LONGEST_MARKER:
            raise ValueError(f"it has more than {LONGEST_MARKER:,} bytes")
        return _claim(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise unreadable_marker(root, error) from None


def _claim(content: Any) -> Claim:
    """What was read, checked. Raises ValueError for anything that no store has written."""
    match content:
        case {"store": str(store), "database": str(database), "folder": int(folder), "others": [*others]}:
            if store and all(isinstance(path, str) for path in others):
                return Claim(store, database, folder, tuple(others))
    raise ValueError("it names no store, database, folder and other files")


def take(root: Root, store: str, database: str, artifacts: Sequence[Artifact]) -> bool:
    """Makes the place the store's, unless another process has made it somebody's meanwhile."""
    root.make()
    ours = {artifact.path for artifact in artifacts if root.damage(artifact) is None}
    others = tuple(path for path in root.files() if path not in ours)
    return root.mark(Claim(store, database, root.number, others).text, replace=False)


def renew(root: Root, claim: Claim, database: str) -> None:
    """Says where the database of the place's store is by now."""
    root.mark(Claim(claim.store, database, root.number, claim.others).text, replace=True)


def is_copy(root: Root, claim: Claim) -> bool:
    """Whether this folder is a copy of the one that the claim was written for."""
    return 0 not in (root.number, claim.folder) and root.number != claim.folder


def holds_some(root: Root, artifacts: Sequence[Artifact]) -> bool:
    """Whether a file that the rows name is there with its size."""
    return any(root.size(artifact.path) == artifact.size for artifact in artifacts)
