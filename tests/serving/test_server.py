"""A real server on free ports: what it answers, what it refuses and with which code, what it measures."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.fuzzing.peers import Peer
from benchmarks.load import METHOD
from benchmarks.servers import Running
from imaging.files import fit_image
from protos.consort.v1 import classifier_pb2 as pb
from protos.consort.v1 import classifier_pb2_grpc
from serving.client import CallError, Client
from serving.ensemble import Ensemble, Pixels
from serving.errors import PortTaken, RequestError
from serving.server import OPEN_INFERENCE_SERVICE, SERVICE, Server
from serving.statuses import INTERNAL, STATUS_CODES, status_code
from serving.verdict import Floats
from tests.bundles import TWO_MEMBERS, StubMember, write_bundle
from tests.imaging.test_files import encode, gradient

BLACK = np.zeros((1, 1, 4, 4), np.uint8)
PATIENCE_SECONDS = 60.0
"""How long anything may take on a machine that others keep busy, before it counts as never."""
StartServer = Callable[..., Server]


def target(server: Server) -> str:
    return f"127.0.0.1:{server.grpc_port}"


def scrape(server: Server | Running) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels, over real HTTP."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=60) as reply:
        families = text_string_to_metric_families(reply.read().decode())
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }


def refused(client: Client, request: pb.ClassifyRequest) -> tuple[grpc.StatusCode, str | None]:
    """Code and message of a call that must fail."""
    with grpc.insecure_channel(client.target) as channel, pytest.raises(grpc.RpcError) as error:
        classifier_pb2_grpc.ClassifierStub(channel).Classify(request, timeout=60)
    return error.value.code(), error.value.details()


def raw(
    pixels: bytes = bytes(16), shape: tuple[int, ...] = (1, 1, 4, 4), kind: int = 1, **more: Any
) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(
        raw=pb.RawImages(pixels=pixels, shape=shape, element_type=pb.ElementType.ValueType(kind)), **more
    )


def calls_counted(code: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """The sample that counts Classify calls that ended with a code."""
    return "consort_call_seconds_count", frozenset({("method", "Classify"), ("code", code)})


def is_answered(client: Client) -> bool:
    """Whether a call is answered now, and not refused."""
    try:
        client.classify(BLACK)
    except CallError:
        return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


class Gate:
    """Holds back every member of every batch until it is opened."""

    def __init__(self) -> None:
        self._entered, self._open = threading.Event(), threading.Event()

    def hold(self, run: Callable[[Ensemble, int, Pixels], Floats]) -> Callable[[Ensemble, int, Pixels], Floats]:
        """`run`, but only once the gate is open."""

        def held(ensemble: Ensemble, member: int, pixels: Pixels) -> Floats:
            self._entered.set()
            assert self._open.wait(PATIENCE_SECONDS)
            return run(ensemble, member, pixels)

        return held

    def wait_until_held(self) -> None:
        """Wait until a batch is held back."""
        assert self._entered.wait(PATIENCE_SECONDS)

    def shut(self) -> None:
        """Hold back what comes from now on."""
        self._entered.clear()
        self._open.clear()

    def open(self) -> None:
        """Let all batches run, those held back and those to come."""
        self._open.set()


def expire(stub: classifier_pb2_grpc.ClassifierStub, counted: Callable[[], bool]) -> None:
    """Make calls that come too late, with more and more time, until one was there before its deadline passed."""
    for seconds in (0.3, 1, 3, 10, 30):
        with pytest.raises(grpc.RpcError) as error:
            stub.Classify(raw(), timeout=seconds)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        with suppress(AssertionError):
            wait_for(counted, seconds)
            return
    raise AssertionError("no call with a deadline was counted")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate before the members of every server that is started after it."""
    gate = Gate()
    monkeypatch.setattr(Ensemble, "run_member", gate.hold(Ensemble.run_member))
    yield gate
    gate.open()


def wait_until_refused(port: int) -> None:
    """Wait until nothing listens on a port any more."""

    def is_refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_for(is_refused)


class TestClassify:
    def test_a_budget_of_members(self, client: Client) -> None:
        """The first member alone: (0.7, 0.2, 0.1)."""
        (found,) = client.classify(BLACK, members=True, max_members=1).classifications
        assert found.probabilities.tolist() == pytest.approx([0.7, 0.2, 0.1])
        assert (found.members_run, found.agreement) == (1, 1.0)
        assert found.members is not None
        assert found.members.shape == (1, 3)

    def test_early_stop_asks_no_more_members_than_the_class_needs(
        self, tmp_path: Path, start_server: StartServer
    ) -> None:
        """Three members; two that are sure settle a black image, a bright one needs the third."""
        sure = StubMember((0.98, 0.01, 0.01))
        write_bundle(tmp_path, (sure, StubMember((0.98, 0.01, 0.01), tilt=(0, 9, 0)), sure))
        pixels = np.concatenate([BLACK, np.full_like(BLACK, 255)])
        with Client(target(start_server(tmp_path))) as client:
            black, bright = client.classify(pixels, members=True, early_stop=True).classifications
            full = client.classify(pixels, members=True).classifications
        assert (black.members_run, bright.members_run) == (2, 3)
        assert [found.label for found in full] == [black.label, bright.label]
        assert black.members is not None
        assert black.members.shape == (2, 3)
        assert bright.probabilities.tolist() == full[1].probabilities.tolist()

    def test_the_average_of_two_known_members(self, client: Client) -> None:
        """(0.7, 0.2, 0.1) and (0.1, 0.5, 0.4) average to (0.4, 0.35, 0.25)."""
        result = client.classify(BLACK, members=True, top_classes=3)
        (found,) = result.classifications
        assert (result.model_name, result.model_version) == ("stub", 1)
        assert found.probabilities == pytest.approx([0.4, 0.35, 0.25])
        assert found.members is not None
        assert found.members == pytest.approx(np.array([m.probabilities for m in TWO_MEMBERS]))
        assert found.top_classes[2].label == "class 2"
        assert found.top_classes[2].probability == pytest.approx(0.25)
        assert found.agreement == 0.5
        assert 0 < found.mutual_information < found.entropy < np.log(3)

    def test_members_come_only_when_asked_for(self, client: Client) -> None:
        assert client.classify(BLACK).classifications[0].members is None

    @pytest.mark.parametrize(("asked", "given"), [(0, 1), (1, 1), (2, 2), (3, 3), (99, 3)])
    def test_number_of_top_classes(self, client: Client, asked: int, given: int) -> None:
        assert len(client.classify(BLACK, top_classes=asked).classifications[0].top_classes) == given

    def test_images_are_answered_in_order(self, tmp_path: Path, start_server: StartServer) -> None:
        member = StubMember((0.5, 0.5), tilt=(0.0, 4.0))
        write_bundle(tmp_path, [member])
        levels = [0, 255, 51, 102]
        pixels = np.array(levels, np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
        with Client(target(start_server(tmp_path))) as client:
            for images in (pixels, pixels.astype(np.float32)):
                result = client.classify(images)
                for level, found in zip(levels, result.classifications, strict=True):
                    assert found.probabilities == pytest.approx(member.answer(level / 255), abs=1e-5)

    def test_floats_are_rounded_to_the_nearest_pixel_value(
        self, tmp_path: Path, start_server: StartServer
    ) -> None:
        write_bundle(tmp_path, [StubMember((0.5, 0.5), tilt=(0.0, 4.0))])
        with Client(target(start_server(tmp_path))) as client:
            near, exact = (
                client.classify(np.full((1, 1, 4, 4), value, np.float32)).classifications[0].probabilities
                for value in (99.6, 100.0)
            )
        assert np.array_equal(near, exact)

    def test_files_of_any_size_as_path_text_or_bytes(self, client: Client, tmp_path: Path) -> None:
        file = encode(gradient(30))
        (tmp_path / "image.png").write_bytes(file)
        result = client.classify([file, tmp_path / "image.png", str(tmp_path / "image.png")])
        assert len(result.classifications) == 3

    def test_a_model_with_a_temperature_answers_calibrated(
        self, tmp_path: Path, start_server: StartServer
    ) -> None:
        write_bundle(tmp_path, [StubMember((0.8, 0.2))], temperature=0.5)
        with Client(target(start_server(tmp_path))) as client:
            found = client.classify(BLACK).classifications[0]
        assert found.probability == pytest.approx(0.64 / 0.68)

    def test_timing_adds_up(self, client: Client) -> None:
        timing = client.classify(BLACK).timing
        parts = timing.decode_seconds + timing.queue_seconds + timing.inference_seconds
        assert 0 < parts <= timing.total_seconds
        assert min(timing.decode_seconds, timing.queue_seconds, timing.inference_seconds) >= 0

    def test_many_callers_at_once_each_get_their_own(self, tmp_path: Path, start_server: StartServer) -> None:
        member = StubMember((0.5, 0.5), tilt=(0.0, 4.0))
        write_bundle(tmp_path, [member])
        wrong: list[int] = []

        def call(level: int) -> None:
            pixels = np.full((1 + level % 5, 1, 4, 4), level, np.uint8)
            for _ in range(10):
                found = [one.probabilities for one in client.classify(pixels).classifications]
                if found != [pytest.approx(member.answer(level / 255), abs=1e-5)] * len(pixels):
                    wrong.append(level)

        with Client(target(start_server(tmp_path))) as client:
            callers = [threading.Thread(target=call, args=(level,)) for level in range(0, 256, 16)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
        assert wrong == []


class TestRefusals:
    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            (pb.ClassifyRequest(), "the request has no images; send raw pixels, or PNG, JPEG, WebP or BMP files"),
            (raw(shape=(1, 4, 4)), "raw pixels have shape 1x4x4, expected (images)x1x4x4"),
            (raw(max_members=3), "max_members is 3, expected at most 2, or 0 for all"),
            (raw(shape=(1, 1, 4, 5)), "raw pixels have shape 1x1x4x5, expected (images)x1x4x4"),
            (raw(shape=()), "raw pixels have shape (none), expected (images)x1x4x4"),
            (raw(shape=(0, 1, 4, 4)), "the request has 0 images, expected 1 to 256"),
            (raw(shape=(257, 1, 4, 4)), "the request has 257 images, expected 1 to 256"),
            (raw(shape=(4294967295, 1, 4, 4)), "the request has 4294967295 images, expected 1 to 256"),
            (raw(kind=0), "element_type is 0, expected UINT8 (1) or FLOAT32 (2)"),
            (raw(kind=7), "element_type is 7, expected UINT8 (1) or FLOAT32 (2)"),
            (raw(bytes(15)), "raw pixels are 15 bytes, expected 16 for 1x1x4x4 uint8"),
            (raw(bytes(16), kind=2), "raw pixels are 16 bytes, expected 64 for 1x1x4x4 float32"),
            (
                raw(np.full(16, 256, "<f4").tobytes(), kind=2),
                "float32 pixels range from 256 to 256, expected finite values in 0..255",
            ),
            (
                raw(np.full(16, np.nan, "<f4").tobytes(), kind=2),
                "float32 pixels range from nan to nan, expected finite values in 0..255",
            ),
            (pb.ClassifyRequest(encoded=pb.EncodedImages()), "the request has 0 images, expected 1 to 256"),
            (
                pb.ClassifyRequest(encoded=pb.EncodedImages(files=[encode(gradient()), b"junk"])),
                "image 2 of 2: 4 bytes that are no PNG, JPEG, WebP or BMP file",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_bad_input(self, client: Client, request_: pb.ClassifyRequest, message: str) -> None:
        assert refused(client, request_) == (grpc.StatusCode.INVALID_ARGUMENT, message)

    def test_unknown_model_and_version(self, client: Client) -> None:
        with pytest.raises(CallError) as error:
            client.classify(BLACK, model="other")
        assert error.value.code == grpc.StatusCode.NOT_FOUND
        assert error.value.message == "no model 'other' is served; there are stub"
        with pytest.raises(CallError, match="NOT_FOUND: model 'stub' has no version 2; served are 1"):
            client.classify(BLACK, model="stub", version=2)

    def test_a_request_beyond_the_byte_limit(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models, max_call_bytes=2000)
        with Client(target(server)) as client:
            with pytest.raises(CallError) as error:
                client.classify(np.zeros((200, 1, 4, 4), np.uint8))
            assert error.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
            client.classify(BLACK)

    def test_a_full_queue(self, models: Path, gate: Gate, start_server: StartServer) -> None:
        """One call runs and one waits; the third is refused at once, and both others are answered."""
        server = start_server(models, max_queue_images=1, max_call_images=1, threads=1)
        with grpc.insecure_channel(target(server)) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            running = stub.Classify.future(raw(), timeout=60)
            gate.wait_until_held()
            done: SimpleQueue[Any] = SimpleQueue()
            later = [stub.Classify.future(raw(), timeout=60) for _ in range(2)]
            for call in later:
                call.add_done_callback(done.put)
            turned_away = done.get(timeout=60)
            assert (turned_away.code(), turned_away.details()) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "1 images wait already, 1 more would exceed the limit of 1; try again later",
            )
            ((key, pushback),) = turned_away.trailing_metadata()
            assert key == "grpc-retry-pushback-ms"
            assert 0 <= int(pushback) < 10_000
            gate.open()
            for call in (running, *(call for call in later if call is not turned_away)):
                assert len(call.result().classifications) == 1

    def test_too_many_calls_at_once(self, models: Path, gate: Gate, start_server: StartServer) -> None:
        """The one too many is refused; health checks are still answered."""
        server = start_server(models, max_concurrent_calls=1)
        with grpc.insecure_channel(target(server)) as channel, Client(target(server)) as client:
            running = classifier_pb2_grpc.ClassifierStub(channel).Classify.future(raw(), timeout=60)
            gate.wait_until_held()
            assert refused(client, raw()) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "1 calls are in progress, which is the limit; try again later",
            )
            health: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
            reply = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
            gate.open()
            assert len(running.result().classifications) == 1

    def test_who_is_refused_is_not_waited_for(self, models: Path, gate: Gate, start_server: StartServer) -> None:
        """The refusal comes although the message never does."""
        server = start_server(models, max_concurrent_calls=1)
        with grpc.insecure_channel(target(server)) as channel, Peer(target(server)) as peer:
            running = classifier_pb2_grpc.ClassifierStub(channel).Classify.future(raw(), timeout=10)
            gate.wait_until_held()
            peer.begin(METHOD)
            assert peer.code() == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            gate.open()
            assert len(running.result().classifications) == 1

    def test_who_leaves_before_the_message_gives_the_place_back(
        self, models: Path, start_server: StartServer
    ) -> None:
        server = start_server(models, max_concurrent_calls=1)
        arrived = ("consort_arrived_calls_total", frozenset({("method", "Classify")}))
        with Client(target(server)) as client:
            with Peer(target(server)) as peer:
                peer.begin(METHOD)
                wait_for(lambda: scrape(server).get(arrived) == 1)
                assert refused(client, raw())[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
            wait_for(lambda: is_answered(client))

    @pytest.mark.parametrize(
        "method", [METHOD, "/consort.v1.Classifier/ListModels", "/grpc.health.v1.Health/Check"]
    )
    def test_a_call_without_a_message_is_refused(
        self, method: str, models: Path, start_server: StartServer
    ) -> None:
        with grpc.insecure_channel(target(start_server(models))) as channel:
            call: Any = channel.stream_unary(method)
            with pytest.raises(grpc.RpcError, match="the call ended without a message") as error:
                call(iter(()), timeout=10)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    def test_our_own_failures_tell_callers_nothing(
        self, models: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("secret path /etc/consort")

        monkeypatch.setattr(Ensemble, "run_member", fail)
        with Client(target(start_server(models))) as client:
            assert refused(client, raw()) == (INTERNAL.code, INTERNAL.message)
            assert client.list_models()

    def test_every_request_error_has_a_status(self) -> None:
        def below(kind: type[RequestError]) -> set[type[RequestError]]:
            return {kind}.union(*(below(child) for child in kind.__subclasses__()))

        kinds = below(RequestError) - {RequestError}
        assert kinds >= STATUS_CODES.keys()
        for kind in kinds:
            assert status_code(kind) not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN), kind

    def test_what_came_is_quoted_but_not_without_end(self, client: Client) -> None:
        """GRPC drops a status whose message is too long."""
        with pytest.raises(CallError) as error:
            client.classify(BLACK, model="x" * 200_000)
        assert error.value.code == grpc.StatusCode.NOT_FOUND
        assert len(error.value.message) < 600
        code, _ = refused(client, raw(shape=(1,) * 1_000_000))
        assert code == grpc.StatusCode.INVALID_ARGUMENT


class TestCallersWhoLeave:
    def test_a_call_that_waits_is_dropped_when_its_caller_cancels(
        self, models: Path, gate: Gate, start_server: StartServer
    ) -> None:
        server = start_server(models, threads=1)
        with grpc.insecure_channel(target(server)) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            running = stub.Classify.future(raw(), timeout=60)
            gate.wait_until_held()
            leaving = stub.Classify.future(raw(), timeout=60)
            in_flight = ("consort_in_flight_calls", frozenset({("method", "Classify")}))
            wait_for(lambda: scrape(server)[in_flight] == 2)
            leaving.cancel()
            cancelled = calls_counted("CANCELLED")
            wait_for(lambda: scrape(server).get(cancelled) == 1)
            gate.open()
            assert len(running.result().classifications) == 1
            assert len(stub.Classify(raw(), timeout=60).classifications) == 1
        images = ("consort_batch_images_sum", frozenset({("model", "stub"), ("version", "1")}))
        assert scrape(server)[images] == 2, "the cancelled image must not have run"

    def test_a_deadline_that_passes_is_counted_as_such(
        self, models: Path, gate: Gate, start_server: StartServer
    ) -> None:
        server = start_server(models, threads=1)
        with grpc.insecure_channel(target(server)) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            running = stub.Classify.future(raw(), timeout=60)
            gate.wait_until_held()
            late = calls_counted("DEADLINE_EXCEEDED")
            expire(stub, lambda: late in scrape(server))
            gate.open()
            running.result()

    @pytest.mark.parametrize("work", ["serving.codec.decode_raw", "serving.servicer.encode_answer"])
    def test_what_takes_long_for_one_call_holds_up_no_other(
        self, work: str, models: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Twenty images of 16 bytes, where 200 bytes count as much."""
        begun, may_end = threading.Event(), threading.Event()
        module, _, name = work.rpartition(".")
        do = getattr(import_module(module), name)

        def do_slowly(*args: Any) -> Any:
            if threading.current_thread().name.startswith("arrays"):
                begun.set()
                assert may_end.wait(PATIENCE_SECONDS)
            return do(*args)

        monkeypatch.setattr(work, do_slowly)
        monkeypatch.setattr("serving.loop.LONG_BYTES", 200)
        with Client(target(start_server(models))) as client, ThreadPoolExecutor(1) as caller:
            large = caller.submit(client.classify, np.zeros((20, 1, 4, 4), np.uint8))
            assert begun.wait(PATIENCE_SECONDS)
            assert len(client.classify(BLACK).classifications) == 1
            assert not large.done()
            may_end.set()
            assert len(large.result().classifications) == 20

    def test_files_are_not_decoded_for_nobody(
        self, models: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two thousand files that take twenty seconds, and a caller who leaves once the first is decoded."""
        decoded, begun = [], threading.Event()

        def fit_slowly(image: Image.Image, shape: tuple[int, int, int]) -> Pixels:
            time.sleep(0.01)
            decoded.append(image)
            begun.set()
            return fit_image(image, shape)

        monkeypatch.setattr("serving.decoding.fit_image", fit_slowly)
        server = start_server(models, max_call_images=2000)
        request = pb.ClassifyRequest(encoded=pb.EncodedImages(files=[encode(gradient())] * 2000))
        with grpc.insecure_channel(target(server)) as channel:
            leaving = classifier_pb2_grpc.ClassifierStub(channel).Classify.future(request, timeout=60)
            assert begun.wait(PATIENCE_SECONDS)
            leaving.cancel()
            cancelled = calls_counted("CANCELLED")
            wait_for(lambda: scrape(server).get(cancelled) == 1)
        assert 0 < len(decoded) < 2000


class TestModels:
    def test_list(self, tmp_path: Path, start_server: StartServer) -> None:
        for name, version in (("b", 2), ("a", 1), ("b", 10)):
            write_bundle(tmp_path, name=name, version=version)
        with Client(target(start_server(tmp_path, latest_versions=2))) as client:
            listed = [(model.name, model.version, model.default_version) for model in client.list_models()]
        assert listed == [("a", 1, True), ("b", 2, False), ("b", 10, True)]

    def test_get(self, client: Client) -> None:
        model = client.get_model("stub")
        assert list(model.class_labels) == ["class 0", "class 1", "class 2"]
        assert (model.channels, model.height, model.width) == (1, 4, 4)
        assert [(m.architecture, m.seed, m.parameters, m.multiply_adds) for m in model.members] == [
            ("stub", 1, 3, 48),
            ("stub", 2, 3, 48),
        ]
        assert (model.test.accuracy, model.test.accuracy_low, model.test.count) == (0.9, 0.82, 100)
        assert model.provider == "cpu"

    def test_get_unknown(self, client: Client) -> None:
        with pytest.raises(CallError, match="NOT_FOUND"):
            client.get_model("other")


class TestLife:
    def test_health_of_server_and_service(self, models: Path, start_server: StartServer) -> None:
        with grpc.insecure_channel(target(start_server(models))) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
            for service in ("", SERVICE):
                reply = stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert reply.status == health_pb2.HealthCheckResponse.SERVING

    def test_draining_answers_what_runs_and_says_it_stops(
        self, models: Path, gate: Gate, start_server: StartServer
    ) -> None:
        server = start_server(models)
        with grpc.insecure_channel(target(server)) as channel:
            running = classifier_pb2_grpc.ClassifierStub(channel).Classify.future(raw(), timeout=60)
            health: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
            services = ("", SERVICE, OPEN_INFERENCE_SERVICE, "stub")  # the last is a model
            watches = [health.Watch(health_pb2.HealthCheckRequest(service=service)) for service in services]
            assert [next(watch).status for watch in watches] == [health_pb2.HealthCheckResponse.SERVING] * 4
            gate.wait_until_held()
            drain = threading.Thread(target=server.drain)
            drain.start()
            assert [next(watch).status for watch in watches] == [health_pb2.HealthCheckResponse.NOT_SERVING] * 4
            wait_until_refused(server.grpc_port)
            with grpc.insecure_channel(target(server)) as late, pytest.raises(grpc.RpcError) as error:
                classifier_pb2_grpc.ClassifierStub(late).Classify(raw(), timeout=60)
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
            gate.open()
            assert len(running.result().classifications) == 1
            drain.join(60)
            assert not drain.is_alive(), "a stream that only watches the health must not hold up the drain"

    def test_open_streams_hold_up_neither_calls_nor_health_checks(
        self, models: Path, start_server: StartServer
    ) -> None:
        """A hundred of each kind; those that would hold a thread are refused beyond a few."""
        with grpc.insecure_channel(target(start_server(models))) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
            watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
            assert all(next(watch).status == health_pb2.HealthCheckResponse.SERVING for watch in watching)
            reflection: Any = channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            )
            never = threading.Event()
            asking = [reflection(iter(never.wait, True)) for _ in range(100)]
            reply = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
            assert (
                len(classifier_pb2_grpc.ClassifierStub(channel).Classify(raw(), timeout=60).classifications) == 1
            )
            never.set()
            for stream in (*asking, *watching):
                stream.cancel()

    def test_a_grpc_port_in_use_is_refused(self, models: Path, start_server: StartServer) -> None:
        first = start_server(models)
        with pytest.raises(PortTaken, match=f"gRPC address 127.0.0.1:{first.grpc_port} cannot be listened on"):
            Server(first.settings.model_copy(update={"grpc_port": first.grpc_port})).start()

    def test_a_metrics_port_in_use_is_refused(self, models: Path, start_server: StartServer) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            settings = start_server(models).settings.model_copy(update={"metrics_port": port})
            with pytest.raises(PortTaken, match=f"metrics port 127.0.0.1:{port} cannot be opened"):
                Server(settings).start()

    def test_a_client_that_knows_nothing_can_list_and_call(self, models: Path, start_server: StartServer) -> None:
        """By reflection alone, as grpcurl does: names, types and messages all come from the server."""
        with grpc.insecure_channel(target(start_server(models))) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert set(database.get_services()) >= {SERVICE, "grpc.health.v1.Health"}
            pool = DescriptorPool()
            file: FileDescriptorProto = database.FindFileContainingSymbol(SERVICE)
            pool.Add(file)
            method = pool.FindServiceByName(SERVICE).FindMethodByName("Classify")
            request_type = GetMessageClass(method.input_type)
            response_type = GetMessageClass(method.output_type)
            request = request_type(raw={"pixels": bytes(16), "shape": [1, 1, 4, 4], "element_type": 1})
            call = channel.unary_unary(
                f"/{SERVICE}/Classify", request_type.SerializeToString, response_type.FromString
            )
            reply: Any = call(request, timeout=60)
        assert list(reply.classifications[0].probabilities) == pytest.approx([0.4, 0.35, 0.25])

    def test_reflection_can_be_switched_off(self, models: Path, start_server: StartServer) -> None:
        with grpc.insecure_channel(target(start_server(models, reflection=False))) as channel:
            with pytest.raises(grpc.RpcError) as error:
                ProtoReflectionDescriptorDatabase(channel).get_services()
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


class TestMetrics:
    def test_a_call_is_counted_and_timed_in_every_stage(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models)
        model = {("model", "stub"), ("version", "1")}
        before = scrape(server)
        with Client(target(server)) as client:
            client.classify(np.zeros((5, 1, 4, 4), np.uint8))
        after = scrape(server)

        def grown(name: str, *labels: tuple[str, str]) -> float:
            key = (name, frozenset(labels))
            return after[key] - before.get(key, 0.0)

        assert grown("consort_call_seconds_count", ("method", "Classify"), ("code", "OK")) == 1
        for stage in ("decode", "queue", "inference", "total"):
            assert grown("consort_stage_seconds_count", *model, ("stage", stage)) == 1
        for member in ("1", "2"):
            assert grown("consort_member_inference_seconds_count", *model, ("member", member)) == 1
        assert grown("consort_batch_images_count", *model) == 1
        assert grown("consort_batch_images_sum", *model) == 5
        assert grown("consort_predictions_total", *model, ("class_label", "class 0")) == 5
        assert grown("consort_predictions_total", *model, ("class_label", "class 1")) == 0
        assert grown("consort_agreement_sum", *model) == 2.5
        info = frozenset({*model, ("members", "2"), ("provider", "cpu")})
        assert after["consort_model_info", info] == 1
        assert after["consort_in_flight_calls", frozenset({("method", "Classify")})] == 0

    def test_refusals_are_counted_by_their_code(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models)
        with Client(target(server)) as client:
            for call in (lambda: client.get_model("x"), lambda: client.classify([b"x"])):
                with pytest.raises(CallError):
                    call()
        samples = scrape(server)
        for method, code in (("GetModel", "NOT_FOUND"), ("Classify", "INVALID_ARGUMENT")):
            key = ("consort_call_seconds_count", frozenset({("method", method), ("code", code)}))
            assert samples[key] == 1

    def test_buckets_begin_at_fifty_microseconds(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models)
        bounds = sorted(
            float(dict(labels)["le"])
            for name, labels in scrape(server)
            if name == "consort_stage_seconds_bucket" and ("stage", "total") in labels
        )
        assert bounds[0] == 50e-6
        assert sum(bound < 1e-3 for bound in bounds) >= 6

    def test_memory_is_reported(self, models: Path, start_server: StartServer) -> None:
        resident = scrape(start_server(models))["process_resident_memory_bytes", frozenset()]
        assert 10e6 < resident < 2e9
