"""Bearer tokens: a file of their hashes, and what a call that brings one may do.

A line of the file is a name, scopes and a hash: `ci classify,metrics 9f86d0...`. The hash is SHA-256, plain:
tokens are 256 random bits, which nobody guesses, so that salt and slowness would protect nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.errors import CredentialsRefused, Forbidden, Unauthenticated
from serving.security.scopes import Scope

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HASH = re.compile(r"[0-9a-f]{64}")
PREFIX = "consort_"
"""Of every token, so that what looks for secrets in code finds it."""
SCHEME = "bearer "


@dataclass(frozen=True)
class Entry:
    """A token as the file has it: its name, what it allows, and its SHA-256 as 32 bytes."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes

    def __str__(self) -> str:
        return f"{self.name} {','.join(sorted(self.scopes))} {self.digest.hex()}"


class Tokens:
    """The tokens that are taken."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = tuple(entries)

    def require(self, authorization: str | None, scope: Scope) -> None:
        """Let a call pass whose `authorization` is `Bearer` and a token that allows `scope`.

        Raises:
            Unauthenticated: There is no such token.
            Forbidden: It does not allow this.
        """
        found = self._find(authorization or "")
        if found is None:
            raise Unauthenticated("a valid token is needed, as authorization: Bearer TOKEN")
        if scope not in found.scopes:
            raise Forbidden(f"the token does not allow this call, which needs the scope {scope}")

    def _find(self, authorization: str) -> Entry | None:
        """Compare with all entries, whichever fits, each in constant time."""
        is_bearer = authorization[: len(SCHEME)].lower() == SCHEME
        digest = digest_of(authorization[len(SCHEME) :].strip() if is_bearer else "")
        found = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return found


def make_token() -> str:
    """A new token, of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> bytes:
    """Its SHA-256."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def parse_tokens(content: bytes, path: Path) -> tuple[Entry, ...]:
    """The entries of a file of tokens; blank lines and lines that begin with # say nothing.

    Raises:
        CredentialsRefused: There is no token, a line is not understood, or a name or hash comes twice.
            No line is quoted.
    """
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CredentialsRefused(f"tokens file {path} is no UTF-8 text") from error
    numbered = ((number, line.strip()) for number, line in enumerate(lines, 1))
    entries = tuple(
        _parse_line(line, f"tokens file {path}, line {number}")
        for number, line in numbered
        if line and not line.startswith("#")
    )
    for kind, found in (("name", [one.name for one in entries]), ("hash", [one.digest for one in entries])):
        if len(set(found)) < len(found):
            raise CredentialsRefused(f"tokens file {path} has a {kind} twice")
    if not entries:
        raise CredentialsRefused(f"tokens file {path} has no token, so nobody could call")
    return entries


def _parse_line(line: str, where: str) -> Entry:
    match line.split():
        case [name, scopes, hashed] if NAME.fullmatch(name) and HASH.fullmatch(hashed):
            if hashed == digest_of("").hex():
                raise CredentialsRefused(f"{where} has the hash of no token, which would let everybody in")
            return Entry(name, parse_scopes(scopes, where), bytes.fromhex(hashed))
    raise CredentialsRefused(f"{where} is no name, scopes and SHA-256; python -m serving.token writes such lines")


def parse_scopes(text: str, where: str) -> frozenset[Scope]:
    """Scopes that are separated by commas.

    Raises:
        CredentialsRefused: There is no such scope.
    """
    try:
        return frozenset(Scope(one) for one in text.split(","))
    except ValueError as error:
        raise CredentialsRefused(f"{where}: {error}; scopes are {', '.join(Scope)}") from error
