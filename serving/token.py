"""Make a token: `python -m serving.token NAME --scopes classify,metrics`.

The token is printed once and kept nowhere; the file of tokens, which the server reads, gets its hash.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from serving.errors import CredentialsRefused
from serving.security.scopes import Scope
from serving.security.tokens import NAME, Entry, digest_of, make_token, parse_scopes, parse_tokens

EXIT_FAILED = 1
READABLE_BY_ALL = 0o644
"""Of a new file: it holds no secret, and the server may run as another user."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.token", description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="whose it is; one line of the file has it")
    parser.add_argument("--scopes", required=True, help=f"what it allows, with commas: {', '.join(Scope)}")
    parser.add_argument("--tokens", type=Path, default=Path("tokens"), help="file to add it to (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        print(add_token(options.name, options.scopes, options.tokens))
    except CredentialsRefused as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"{options.tokens} cannot be written: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def add_token(name: str, scopes: str, path: Path) -> str:
    """Make a token and add its line to a file, which is made if it is not there.

    Raises:
        CredentialsRefused: The name is taken or not usable, a scope is not known, or the file is not understood.
        OSError: The file cannot be read or written.
    """
    if not NAME.fullmatch(name):
        raise CredentialsRefused(f"name {name!r} is not of letters, digits, dots, dashes and underscores")
    token = make_token()
    entry = Entry(name, parse_scopes(scopes, "--scopes"), digest_of(token))
    before = path.read_bytes() if path.exists() else b""
    content = before + (b"\n" if before and not before.endswith(b"\n") else b"") + f"{entry}\n".encode()
    parse_tokens(content, path)
    _replace(path, content)
    return token


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, and nothing between."""
    mode = path.stat().st_mode if path.exists() else READABLE_BY_ALL
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        unfinished = Path(file.name)
        try:
            file.write(content)
            file.flush()
            unfinished.chmod(mode & 0o777)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)  # where the disk is full, say


if __name__ == "__main__":
    sys.exit(main())
