"""Every limit, tried one past its edge; whoever keeps to it is answered."""

from __future__ import annotations

import gzip
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.events import StreamEnded, StreamReset
from h2.settings import SettingCodes
from PIL import Image

from benchmarks.fuzzing.images import many_scans
from benchmarks.fuzzing.peers import Peer
from imaging.files import MAX_SCANS, ImageError, read_image
from protos.consort.v1 import classifier_pb2 as pb
from protos.open_inference.v2 import grpc_service_pb2 as inference
from serving import interceptor
from serving.client import CallError, Client
from serving.server import Server
from tests.conftest import StartServer
from tests.imaging.test_files import encode, gradient
from tests.serving.security.callers import code_of
from tests.serving.test_process import serving
from tests.serving.test_server import target, wait_for

LIST_MODELS = "/consort.v1.Classifier/ListModels"
ENHANCE_YOUR_CALM = 11
"""HTTP/2's word for a peer that asks too much."""
REFUSED_STREAM = 7
"""HTTP/2's word for a call that was not begun."""
INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def refusal(server: Server, images: list[bytes] | np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> CallError:
    """The error of a call that must fail; the server answers the next one."""
    with Client(target(server), 60) as client:
        with pytest.raises(CallError) as error:
            client.classify(images)
        client.classify(np.zeros((1, 1, 4, 4), np.uint8))
    return error.value


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS"))


def ended(peer: Peer, streams: list[int]) -> dict[int, int]:
    """Wait until calls have ended; gives the reason of HTTP/2 for each that was reset, 0 for the others."""
    found: dict[int, int] = {}
    while found.keys() < set(streams):
        for event in peer.receive():
            if isinstance(event, StreamReset | StreamEnded) and event.stream_id is not None:
                found[event.stream_id] = int(event.error_code or 0) if isinstance(event, StreamReset) else 0
    return found


class TestOneCall:
    def test_of_too_many_bytes(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models, max_call_bytes=2000)
        exact = pb.ClassifyRequest(model_name="x" * 1997).SerializeToString()
        assert len(exact) == 2000
        assert code_of(server, "/consort.v1.Classifier/Classify", message=exact) == grpc.StatusCode.NOT_FOUND
        assert code_of(server, "/consort.v1.Classifier/Classify", message=exact + b"\x28\x01") == EXHAUSTED

    @pytest.mark.parametrize("method", ["Check", "Watch"])
    def test_of_too_many_bytes_for_a_method_that_asks_no_model(self, client: Client, method: str) -> None:
        """Anybody may call these, and a name as long as a picture would be kept for as long as a stream lasts."""
        message = b"\x0a\x81\x80\x04" + b"x" * 65_537  # a service whose name is that long
        with grpc.insecure_channel(client.target) as channel:
            one: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            more: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
            with pytest.raises(grpc.RpcError) as error:
                one(message, timeout=60) if method == "Check" else next(more(message, timeout=60))
        assert error.value.details() == "the request is 65541 bytes; this method takes 65536 at most"

    @pytest.mark.parametrize(
        ("method", "field"),
        [("health.v1.Health/Watch", 0x0A), ("reflection.v1alpha.ServerReflection/ServerReflectionInfo", 0x3A)],
    )
    def test_that_is_refused_leaves_nothing_behind(self, models: Path, method: str, field: int) -> None:
        """Twenty messages of 8 MB, one after the other; each taker of calls, and each error, would keep one."""
        message = bytes((field, 0x80, 0x80, 0x80, 0x04)) + b"x" * 2**23
        with serving("--models", str(models)) as (process, event):
            before = resident_mb(process.pid)
            with grpc.insecure_channel(f"127.0.0.1:{event['grpc_port']}") as channel:
                ask: Any = channel.stream_stream(f"/grpc.{method}")
                for _ in range(20):
                    with pytest.raises(grpc.RpcError, match="this method takes 65536 at most"):
                        next(ask(iter([message]), timeout=60))
            assert resident_mb(process.pid) < before + 100

    @pytest.mark.parametrize("method", ["/consort.v1.Classifier/Classify", "/grpc.health.v1.Health/Watch"])
    def test_whose_message_never_comes(self, models: Path, start_server: StartServer, method: str) -> None:
        server = start_server(models, message_seconds=0.1)
        with Peer(target(server)) as peer:
            peer.begin(method)
            assert peer.code() == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]

    def test_beside_too_many_streams(
        self, models: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those who watch the health shut out nobody but others who would."""
        monkeypatch.setattr("serving.streams.MAX_STREAMS", 2)
        server = start_server(models)
        with grpc.insecure_channel(target(server)) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
            for turn in range(10):
                streams = [health.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(2)]
                assert [next(stream).status for stream in streams] == [1, 1], f"turn {turn}"
                with pytest.raises(grpc.RpcError) as error:
                    next(health.Watch(health_pb2.HealthCheckRequest(), timeout=60))
                assert error.value.code() == EXHAUSTED
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=60).status == 1
                for stream in streams:
                    stream.cancel()
                wait_for(lambda: not server._interceptor._streams._open)

    def test_beside_too_many_others_that_ask_no_model(
        self, models: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(interceptor, "MAX_OTHER_CALLS", 1)
        server = start_server(models)
        with Peer(target(server)) as peer:
            peer.begin(LIST_MODELS)  # and no message
            wait_for(server._interceptor.is_answering)
            assert code_of(server, LIST_MODELS) == EXHAUSTED
            with Client(target(server), 60) as caller:
                assert len(caller.classify(np.zeros((1, 1, 4, 4), np.uint8)).classifications) == 1
        wait_for(lambda: code_of(server, LIST_MODELS) == grpc.StatusCode.OK)

    def test_of_more_parts_than_there_can_be(self, client: Client) -> None:
        """A million inputs of two bytes each are not looked at one by one."""
        with grpc.insecure_channel(client.target) as channel:
            infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.RpcError) as error:
                infer(b"\x2a\x00" * 1_000_000, timeout=60)
        assert error.value.details() == "the request has inputs , , , , ...; expected one, pixels"

    def test_of_too_many_bytes_once_decompressed(self, models: Path, start_server: StartServer) -> None:
        """A million zeros in a thousand bytes; the limit holds for what comes out."""
        server = start_server(models, max_call_bytes=20_000)
        for content, code in ((b"", grpc.StatusCode.OK), (bytes(1_000_000), EXHAUSTED)):
            message = gzip.compress(content)
            assert len(message) < 20_000
            with Peer(target(server)) as peer:
                peer.send(peer.begin(LIST_MODELS, (("grpc-encoding", "gzip"),)), message, compressed=True)
                assert peer.code() == code.value[0]

    def test_of_too_many_images(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models, max_call_images=3)
        error = refusal(server, [encode(gradient())] * 4)
        assert (error.code, error.message) == (INVALID, "the request has 4 images, expected 1 to 3")

    def test_of_an_image_of_too_many_pixels(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models, max_image_pixels=400)
        with Client(target(server), 60) as client:
            client.classify([encode(gradient(20))])
        error = refusal(server, [encode(gradient(21))])
        assert error.code == INVALID
        assert "21x21 pixels, more than the limit of 400" in error.message

    def test_of_images_of_too_many_pixels_together(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models, max_call_pixels=800)
        with Client(target(server), 60) as client:
            client.classify([encode(gradient(20))] * 2)
        error = refusal(server, [encode(gradient(20)), encode(gradient(20)), encode(gradient(1))])
        assert (error.code, error.message) == (
            INVALID,
            "all images together pass the limit of 800 pixels with image 3 of 3",
        )

    def test_of_images_that_take_too_long(self, models: Path, start_server: StartServer) -> None:
        """Each of them is small enough; none takes no time at all."""
        error = refusal(start_server(models, max_decode_seconds=1e-9), [encode(gradient(20))] * 2)
        assert (error.code, error.message) == (
            INVALID,
            "decoding passes the limit of 1e-09 s of processor time with image 1 of 2",
        )

    def test_of_too_much_metadata(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models, max_metadata_bytes=4000)
        assert code_of(server, LIST_MODELS, metadata=(("x", "y" * 3000),)) == grpc.StatusCode.OK
        assert code_of(server, LIST_MODELS, metadata=(("x", "y" * 4000),)) == EXHAUSTED

    def test_of_values_that_do_not_fit_the_shape(self, models: Path, start_server: StartServer) -> None:
        """They are counted before they are turned into numbers, which would take many times the memory."""
        tensor = inference.ModelInferRequest.InferInputTensor(name="pixels", datatype="UINT8", shape=(1, 1, 4, 4))
        tensor.contents.uint_contents.extend([0] * 17)
        request = inference.ModelInferRequest(inputs=[tensor]).SerializeToString()
        assert (
            code_of(start_server(models), "/inference.GRPCInferenceService/ModelInfer", message=request) == INVALID
        )


class TestOneImage:
    def test_of_too_many_scans(self) -> None:
        """A progressive JPEG of a few bytes a scan would otherwise take the time of decoding it for each."""
        shape = (1, 8, 8)
        own = many_scans(0).count(b"\xff\xda")
        read_image(many_scans(MAX_SCANS - own), shape, 10**6)
        with pytest.raises(ImageError, match=f"a JPEG file of {MAX_SCANS + 1} scans, more than {MAX_SCANS}"):
            read_image(many_scans(MAX_SCANS - own + 1), shape, 10**6)

    def test_that_is_a_bomb_is_refused_by_its_header(self, models: Path, start_server: StartServer) -> None:
        """26 million pixels in a few thousand bytes."""
        file = encode(Image.new("L", (5100, 5100)))
        assert len(file) < 100_000
        assert "more than the limit of 25000000" in refusal(start_server(models), [file]).message


class TestOneConnection:
    def test_is_told_how_many_calls_it_may_have_open(self, models: Path, start_server: StartServer) -> None:
        """A peer that opens one more all the same is refused by HTTP/2 itself; the three are answered."""
        with Peer(target(start_server(models, max_connection_streams=3))) as peer:
            while peer.http.remote_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS, 2**32 - 1) > 3:
                peer.receive()
            assert peer.http.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 3
            three = [peer.begin(LIST_MODELS) for _ in range(3)]
            peer.http.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 4  # what it was told is forgotten
            peer.http.remote_settings.acknowledge()
            fourth = peer.begin(LIST_MODELS)
            assert ended(peer, [fourth]) == {fourth: REFUSED_STREAM}
            for stream in three:
                peer.send(stream, b"")
            assert ended(peer, three) == dict.fromkeys(three, 0)

    def test_that_grows_too_old_is_ended_and_its_client_goes_on(
        self, models: Path, start_server: StartServer
    ) -> None:
        server = start_server(models, max_connection_age_seconds=0.2, connection_grace_seconds=0.2)
        with Client(target(server), 60) as client, Peer(target(server)) as peer:
            client.list_models()
            assert peer.wait_for_the_end() in (0, None)
            client.list_models()

    def test_that_keeps_pinging_is_ended(self, models: Path, start_server: StartServer) -> None:
        with Peer(target(start_server(models, min_ping_seconds=600))) as peer:
            for _ in range(4):  # the first is free, two more are forgiven
                peer.http.ping(bytes(8))
            peer.flush()
            assert peer.wait_for_the_end() == ENHANCE_YOUR_CALM

    def test_that_says_nothing_is_ended(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models, handshake_seconds=0.2)
        with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=60) as silent:
            while silent.recv(1000):
                pass


def test_one_connection_too_many_is_closed(models: Path, start_server: StartServer) -> None:
    """The one that is open goes on; once it ends, another may come."""
    server = start_server(models, max_connections=1)
    with Peer(target(server)) as first:
        first.send(first.begin(LIST_MODELS), b"")
        assert first.code() == 0
        with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=60) as second:
            while second.recv(1000):
                pass
        first.send(first.begin(LIST_MODELS), b"")
        assert first.code() == 0
    wait_until_answered(server)


def wait_until_answered(server: Server) -> None:
    """Wait until a new connection is taken."""
    for _ in range(300):
        if code_of(server, LIST_MODELS) == grpc.StatusCode.OK:
            return
        time.sleep(0.1)
    raise AssertionError("no connection is taken")
