"""Send the server what no honest client sends, and tally what it answers: `python -m benchmarks.fuzz_requests`.

All of it goes over real connections to a server in a process of its own. Every method of both services gets
messages with anything in any field, damaged images and bombs; one in fifty is a peer that breaks HTTP/2's own
rules. Between them a known image is asked for, and must be read as before. The exit code is 1 if a code came that
docs/security.md does not name, an answer changed, or the server died.
"""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import grpc
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks.fuzzing.messages import MessageFuzzer, Vocabulary
from benchmarks.fuzzing.peers import any_peer
from benchmarks.servers import run_server
from export.manifest import read_manifest
from serving.client import Client, Result

DOCUMENTED = frozenset(
    {
        *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED"),
        *("UNAVAILABLE", "UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED"),
    }
)
"""Codes that the contract and docs/security.md name; INTERNAL and UNKNOWN say that we have made a mistake."""
CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
ALLOWED = frozenset({("peer: bad_compression", "INTERNAL")})
"""What gRPC's own core says, before any code of ours, of a message that claims a compression that it has not."""
NO_STATUS = "no status"
"""The peer left first, or the connection was ended for what came on it."""
BATCH = 500
PEER_SHARE = 50
CALLERS = 4
TIMEOUT_SECONDS = 300.0

Tally = Counter[tuple[str, str]]


class FuzzSettings(BaseSettings):
    """How much, of what."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.fuzz_requests", use_attribute_docstrings=True, cli_kebab_case=True
    )

    models: Path = Path("models")
    """Folder of bundles."""
    bundle: str = "mnist-small/3"
    """Name and version of the one that is asked most."""
    image: Path = Path("examples/digits/3-dark-on-light.png")
    """The known image."""
    count: int = Field(100_000, ge=1)
    """Requests."""
    seed: int = 0
    """Of everything that is random."""


class Attack:
    """Requests and peers against one server."""

    def __init__(self, target: str, vocabulary: Vocabulary, seed: int) -> None:
        self._target = target
        self._random = Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._fuzzer = MessageFuzzer(self._random, vocabulary)
        self.tally: Tally = Counter()

    def run(self, count: int) -> None:
        """Send so many requests; peers that break the rules are among them."""
        peers = count // PEER_SHARE
        requests = [self._fuzzer.request() for _ in range(count - peers)]
        with grpc.insecure_channel(self._target) as channel, ThreadPoolExecutor(CALLERS) as pool:
            self.tally.update(pool.map(lambda one: (one[0], call(channel, *one)), requests))
        for _ in range(peers):
            self.tally[self._send_a_peer(*self._fuzzer.request())] += 1

    def _send_a_peer(self, method: str, message: bytes) -> tuple[str, str]:
        # How much randomness a peer uses depends on when it is cut off; what comes after it must not.
        own = Random(self._random.getrandbits(64))  # noqa: S311 - as above
        name, code = any_peer(self._target, own, method, message)
        return f"peer: {name}", NO_STATUS if code is None else CODE_NAMES.get(code, str(code))


def call(channel: grpc.Channel, method: str, message: bytes) -> str:
    """The code that a call ends with."""
    ask: Any = channel.unary_unary(method)  # of bytes, as there is no serializer
    try:
        ask(message, timeout=TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def undocumented(tally: Tally) -> Tally:
    """What should not have come."""
    fine = DOCUMENTED | {NO_STATUS}
    return Counter({key: times for key, times in tally.items() if key[1] not in fine and key not in ALLOWED})


def table(tally: Tally) -> str:
    """A line for each code, most frequent first; what gRPC's core said, and what should not have come, apart."""
    codes: Counter[str] = Counter()
    for (method, code), times in tally.items():
        codes[f"{code}, {method}" if (method, code) in ALLOWED else code] += times
    wrong = [f"NOT DOCUMENTED: {method} {code} {times:,}" for (method, code), times in undocumented(tally).items()]
    return "\n".join(
        [*(f"{times:9,} {code}" for code, times in codes.most_common()), f"{codes.total():9,}", *wrong]
    )


def main() -> int:
    """Print the tally; gives the process's exit code."""
    settings = FuzzSettings(_cli_parse_args=True)
    name, _, _ = settings.bundle.partition("/")
    shape = read_manifest(settings.models / settings.bundle).input.shape
    arguments = ("--models", str(settings.models), "--default-model", name, "--log-format", "json", "--log-level")
    with run_server(*arguments, "info") as server, Client(server.target, TIMEOUT_SECONDS) as client:
        known = [settings.image]
        before = client.classify(known)
        attack = Attack(server.target, Vocabulary(name, shape), settings.seed)
        for done in range(0, settings.count, BATCH):
            attack.run(min(BATCH, settings.count - done))
            if not same(client.classify(known), before):
                print(f"after {done + BATCH:,} requests the known image is read otherwise")
                return 1
    print(table(attack.tally))
    return 1 if undocumented(attack.tally) else 0


def same(one: Result, other: Result) -> bool:
    """Whether two answers give one image the same probabilities, bit for bit."""
    ours, theirs = (result.classifications[0].probabilities.tobytes() for result in (one, other))
    return ours == theirs


if __name__ == "__main__":
    sys.exit(main())
