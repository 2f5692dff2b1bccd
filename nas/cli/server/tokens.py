"""Tokens out of files, who may do what by them, and the sessions of browsers that have shown one."""

import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from nas.artifacts import open_regular
from search_spaces.errors import UsageError

LEAST, MOST = 24, 1_000  # characters of a token
PLAIN = re.compile(r"[A-Za-z0-9._~+/=-]+", re.ASCII)
MAKE = "Make one: (umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE)"
SESSION_SECONDS = 7 * 24 * 3600


class Role(IntEnum):
    """What somebody may do; each may also do what the ones before it may."""

    NOBODY = 0
    READER = 1
    WRITER = 2


def read_token(path: Path) -> str:
    """The token in a file that is its owner's, or also its group's. Raises UsageError."""
    try:
        with open_regular(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MOST + 2)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"The token file '{path}' cannot be read: {reason}.", MAKE) from None
    if stat.S_IMODE(mode) & 0o007:
        raise UsageError(
            f"The token file '{path}' is open to every user of this machine (mode {stat.S_IMODE(mode):03o}).",
            f"chmod 600 {path}; who could read it has the token, so write a new one.",
        )
    text = content.decode("ascii", "replace").strip()
    if not text:
        raise UsageError(f"The token file '{path}' is empty.", MAKE)
    if len(text) > MOST or not PLAIN.fullmatch(text):
        raise UsageError(
            f"The token file '{path}' holds more than one word of letters, digits and -._~+/=.", MAKE
        )
    if len(text) < LEAST:
        raise UsageError(
            f"The token in '{path}' has {len(text)} characters; at least {LEAST} are needed.", MAKE
        )
    return text


@dataclass(frozen=True)
class Tokens:
    """Who may read and who may write. read: None, where everybody may who reaches the server.

    write: None, where nobody may.
    """

    read: str | None = field(default=None, repr=False)
    write: str | None = field(default=None, repr=False)

    @property
    def of_anybody(self) -> Role:
        """What those may do who show nothing."""
        return Role.READER if self.read is None else Role.NOBODY

    def role_of(self, token: str) -> Role:
        """What whoever shows this may do. How long it takes does not depend on how much of it is right."""
        is_writer, is_reader = _same(token, self.write), _same(token, self.read)
        return Role.WRITER if is_writer else Role.READER if is_reader else Role.NOBODY

    def are_in(self, text: str) -> bool:
        """Whether one of the tokens stands in a text."""
        return any(token is not None and token in text for token in (self.read, self.write))

    def key(self, role: Role) -> bytes:
        """What sessions of a role are signed with: who knows it has the role's token."""
        token = self.write if role is Role.WRITER else self.read
        return hmac.digest((token or "").encode(), b"elastiform session", "sha256")


def _same(token: str, expected: str | None) -> bool:
    """In a time that depends on neither of them."""
    one, other = (
        hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (token, expected or "")
    )
    return hmac.compare_digest(one, other) and expected is not None


@dataclass(frozen=True)
class Session:
    """What a browser is given for a token, which it need not keep then."""

    role: Role
    text: str

    @classmethod
    def begun(cls, tokens: Tokens, role: Role) -> "Session":
        """A new one."""
        content = f"{int(role)}.{int(time.time())}.{secrets.token_hex(16)}"
        return cls(role, f"{content}.{_signed(tokens, role, content)}")

    @classmethod
    def read(cls, tokens: Tokens, text: str) -> "Session | None":
        """The session of a cookie; None for one that is none, has run out, or is of another token."""
        match = re.fullmatch(r"(([12])\.(\d{1,12})\.[0-9a-f]{32})\.([0-9a-f]{64})", text, re.ASCII)
        if match is None:
            return None
        content, role, begun, signature = match[1], Role(int(match[2])), int(match[3]), match[4]
        has_token = (tokens.write if role is Role.WRITER else tokens.read) is not None
        signed = hmac.compare_digest(signature, _signed(tokens, role, content))
        age = time.time() - begun
        return cls(role, text) if signed and has_token and 0 <= age < SESSION_SECONDS else None

    def csrf(self, tokens: Tokens) -> str:
        """What a page of ours sends with every change, and no other page knows."""
        return _signed(tokens, self.role, f"csrf {self.text}")

    def is_csrf(self, tokens: Tokens, text: str) -> bool:
        """Whether a request comes from a page of ours."""
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.csrf(tokens).encode())


def _signed(tokens: Tokens, role: Role, content: str) -> str:
    return hmac.digest(tokens.key(role), content.encode(), "sha256").hex()
