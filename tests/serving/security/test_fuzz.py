"""Whatever comes, the answer is a documented code, and the next honest caller is answered as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_requests import CODE_NAMES, DOCUMENTED, Attack, call, table, undocumented
from benchmarks.fuzzing.images import image_file
from benchmarks.fuzzing.messages import METHODS, MessageFuzzer, Vocabulary
from benchmarks.fuzzing.peers import LEAVING, NAMELESS, WAITING, Peer
from imaging.files import ImageError, read_image
from protos.consort.v1 import classifier_pb2 as pb
from serving.call_server import CALLS_AT_ONCE
from serving.client import Client
from tests.imaging.test_files import encode, gradient

STUB = Vocabulary("stub", (1, 4, 4))
CLASSIFY = "/consort.v1.Classifier/Classify"
CALM = settings(deadline=None, suppress_health_check=list(HealthCheck))


def seeded(seed: int) -> Random:
    """Randomness that can be repeated."""
    return Random(seed)  # noqa: S311 - not to be secret


@pytest.fixture(autouse=True)
def _honest_callers_are_answered_as_before(client: Client) -> Iterator[None]:
    """Before and after whatever a test sends."""
    file = encode(gradient(16))
    before = client.classify([file], members=True).classifications[0].members
    yield
    after = client.classify([file], members=True).classifications[0].members
    assert before is not None
    assert after is not None
    assert np.array_equal(before, after)


@CALM
@given(st.randoms(use_true_random=False))
def test_anything_in_any_field_of_any_request(client: Client, random: Random) -> None:
    method, message = MessageFuzzer(random, STUB).request()
    with grpc.insecure_channel(client.target) as channel:
        assert call(channel, method, message) in DOCUMENTED


def test_three_thousand_requests_with_peers_among_them(client: Client) -> None:
    """The beginning of what `python -m benchmarks.fuzz_requests` sends."""
    attack = Attack(client.target, STUB, seed=0)
    attack.run(3000)
    assert attack.tally.total() == 3000
    assert undocumented(attack.tally) == {}
    asked = {method for method, _ in attack.tally}
    assert asked >= {method for method, _ in METHODS}


@CALM
@given(st.randoms(use_true_random=False))
def test_any_image_is_read_or_refused(random: Random) -> None:
    try:
        found = read_image(image_file(random), (1, 8, 8), 25_000_000)
    except ImageError:
        return
    assert found.shape == (1, 8, 8)


@pytest.mark.parametrize("peer", NAMELESS, ids=lambda peer: peer.__name__)
def test_peers_that_speak_no_http(client: Client, peer: type) -> None:
    for seed in range(10):
        peer(client.target, seeded(seed))


@pytest.mark.parametrize("peer", LEAVING, ids=lambda peer: peer.__name__)
def test_peers_that_leave_in_the_middle(client: Client, peer: type) -> None:
    request = pb.ClassifyRequest(encoded=pb.EncodedImages(files=[encode(gradient(200))] * 5)).SerializeToString()
    for seed in range(10):
        peer(client.target, seeded(seed), CLASSIFY, request)


@pytest.mark.parametrize(
    ("peer", "codes"),
    [
        ("too_late", {"DEADLINE_EXCEEDED", "INVALID_ARGUMENT"}),
        ("bad_compression", {"INTERNAL", "INVALID_ARGUMENT"}),
        ("two_messages_or_none", {"UNIMPLEMENTED", "INVALID_ARGUMENT"}),
        ("odd_head", {"UNIMPLEMENTED", "INVALID_ARGUMENT"}),
    ],
)
def test_peers_that_ask_what_cannot_be(client: Client, peer: str, codes: set[str]) -> None:
    """INTERNAL for a compression that is none is gRPC's own, before any code of ours."""
    (sends,) = [one for one in WAITING if one.__name__ == peer]
    found = {sends(client.target, seeded(seed), CLASSIFY, b"junk") for seed in range(10)}
    assert {CODE_NAMES[code] for code in found if code is not None} <= codes


@pytest.mark.parametrize("path", [b"/\xff", b"/consort.v1.Classifier/\xc3(", b"/a/b"])
def test_a_path_may_be_any_bytes(client: Client, path: bytes) -> None:
    """Where gRPC's own code takes calls in, one that is no UTF-8 ends the server for everybody."""
    for _ in range(CALLS_AT_ONCE + 1):
        with Peer(client.target) as peer:
            peer.begin(path)
            assert CODE_NAMES[peer.code() or 0] == "UNIMPLEMENTED"


@pytest.mark.parametrize(("method", "stream"), [(CLASSIFY, False), ("/grpc.health.v1.Health/Watch", True)])
def test_bytes_that_are_no_message_are_the_callers_fault(client: Client, method: str, stream: bool) -> None:
    with grpc.insecure_channel(client.target) as channel:
        one: Any = channel.unary_unary(method)  # of bytes, as there is no serializer
        more: Any = channel.unary_stream(method)
        with pytest.raises(grpc.RpcError) as error:
            next(more(b"\xff\xff", timeout=60)) if stream else one(b"\xff\xff", timeout=60)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == "the request is 2 bytes that are no message of this method"


def test_the_tally_names_what_should_not_have_come() -> None:
    tally = Counter({("a", "OK"): 1200, ("b", "NOT_FOUND"): 2, ("b", "UNKNOWN"): 1, ("peer: x", "no status"): 3})
    assert undocumented(tally) == {("b", "UNKNOWN"): 1}
    lines = table(tally).splitlines()
    assert lines[0].split() == ["1,200", "OK"]
    assert lines[-2].split() == ["1,206"]
    assert lines[-1] == "NOT DOCUMENTED: b UNKNOWN 1"
    of_grpc = Counter({("peer: bad_compression", "INTERNAL"): 1})
    assert undocumented(of_grpc) == {}
    assert table(of_grpc).splitlines()[0].split(maxsplit=1) == ["1", "INTERNAL, peer: bad_compression"]
