"""The Open Inference Protocol on a real server: what it answers, what it refuses, what it shares with Classify."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client.parser import text_string_to_metric_families

from protos.consort.v1 import classifier_pb2 as consort
from protos.consort.v1 import classifier_pb2_grpc
from protos.consort.v1.classifier_pb2 import ELEMENT_TYPE_UINT8 as UINT8
from protos.open_inference.v2 import grpc_service_pb2 as pb
from protos.open_inference.v2 import grpc_service_pb2_grpc
from serving import loop
from serving.client import Client
from serving.ensemble import Ensemble, Pixels
from serving.server import OPEN_INFERENCE_SERVICE, Server
from serving.verdict import Floats
from tests.bundles import StubMember, write_bundle

BLACK = np.zeros((1, 1, 4, 4), np.uint8)
DTYPES = {"FP32": "<f4", "INT64": "<i8"}
TILTED = (
    StubMember((0.7, 0.2, 0.1), tilt=(0.0, 3.0, 1.0)),
    StubMember((0.1, 0.5, 0.4), tilt=(1.0, 0.0, 2.0)),
)
"""Two members whose answers depend on the image."""
LEVELS = np.array([0, 51, 102, 255], np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
UNDERSTOOD = (
    "which is not understood; understood: early_stop (bool_param), max_members (int64_param), "
    "triton_enable_empty_final_response (bool_param), binary_data_output (bool_param)"
)
BINARY = "binary_data (bool_param)"
LEAVE_EMPTY = "leave it empty for the default"
EITHER = "expected uint_contents, or one raw_input_contents"
SHARED = "'shared_memory_region', which is not understood"
OUTPUTS = ("probabilities", "class", "members", "members_run", "entropy", "mutual_information", "agreement")

StartServer = Callable[..., Server]
Stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub
Parameter = pb.InferParameter
Tensor = pb.ModelInferRequest.InferInputTensor
Asked = pb.ModelInferRequest.InferRequestedOutputTensor


@pytest.fixture
def stub(client: Client) -> Iterator[Stub]:
    """A stub of the server of the stub bundle."""
    with grpc.insecure_channel(client.target) as channel:
        yield Stub(channel)


@pytest.fixture
def connect(start_server: StartServer) -> Iterator[Callable[..., Stub]]:
    """Starts a server of a models folder and gives a stub of it."""
    channels = []

    def connect(models: Path, **settings: Any) -> Stub:
        server = start_server(models, **settings)
        channels.append(grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}"))
        return Stub(channels[-1])

    yield connect
    for channel in channels:
        channel.close()


def raw(pixels: npt.NDArray[np.uint8] = BLACK, **changes: Any) -> pb.ModelInferRequest:
    """A request with raw contents."""
    inputs = [Tensor(name="pixels", datatype="UINT8", shape=pixels.shape)]
    return pb.ModelInferRequest(**{"inputs": inputs, "raw_input_contents": [pixels.tobytes()], **changes})


def typed(pixels: npt.NDArray[Any] = BLACK, field: str = "uint_contents", **changes: Any) -> pb.ModelInferRequest:
    """A request with typed contents."""
    contents = pb.InferTensorContents(**{field: pixels.ravel().tolist()})
    inputs = [Tensor(name="pixels", datatype="UINT8", shape=pixels.shape, contents=contents)]
    return pb.ModelInferRequest(inputs=inputs, **changes)


def tensor(raw_input_contents: Sequence[bytes] = (bytes(16),), **changes: Any) -> pb.ModelInferRequest:
    """A request for one black image whose input is described otherwise."""
    described = Tensor(**{"name": "pixels", "datatype": "UINT8", "shape": BLACK.shape, **changes})
    return raw(inputs=[described], raw_input_contents=raw_input_contents)


def asking(*names: str, **parameters: Parameter) -> pb.ModelInferRequest:
    """A request that names outputs, all with the same parameters."""
    return raw(outputs=[Asked(name=name, parameters=parameters) for name in names])


def arrays(response: pb.ModelInferResponse) -> dict[str, npt.NDArray[Any]]:
    """The outputs that are numbers, by name."""
    return {
        output.name: np.frombuffer(content, DTYPES[output.datatype]).reshape(output.shape)
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def texts(content: bytes) -> list[str]:
    """Texts that follow each other, each behind its length."""
    found = []
    while content:
        length = int.from_bytes(content[:4], "little")
        found.append(content[4 : 4 + length].decode())
        content = content[4 + length :]
    return found


def refused(call: Callable[..., Any], request: Any) -> tuple[grpc.StatusCode, str | None]:
    """Code and message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as error:
        call(request, timeout=60)
    return error.value.code(), error.value.details()


def scrape(server: Server, *names: str) -> dict[str, float]:
    """Samples that have one value each, by name, over real HTTP."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=60) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    return {sample.name: sample.value for family in families for sample in family.samples if sample.name in names}


class TestInfer:
    def test_without_outputs_named_probabilities_and_class_come(self, stub: Stub) -> None:
        """(0.7, 0.2, 0.1) and (0.1, 0.5, 0.4) average to (0.4, 0.35, 0.25)."""
        response = stub.ModelInfer(raw(id="seven"), timeout=60)
        assert (response.model_name, response.model_version, response.id) == ("stub", "1", "seven")
        assert [(one.name, one.datatype, list(one.shape)) for one in response.outputs] == [
            ("probabilities", "FP32", [1, 3]),
            ("class", "INT64", [1]),
        ]
        found = arrays(response)
        assert found["probabilities"] == pytest.approx(np.array([[0.4, 0.35, 0.25]]))
        assert found["class"].tolist() == [0]

    def test_outputs_that_are_named_come_in_their_order_and_no_others(self, stub: Stub) -> None:
        names = ["agreement", "members", "entropy", "class", "mutual_information", "members_run", "probabilities"]
        for some in (names, names[:1], names[2:4]):
            assert [one.name for one in stub.ModelInfer(asking(*some), timeout=60).outputs] == some

    @pytest.mark.parametrize("long_bytes", [loop.LONG_BYTES, 0])
    def test_every_figure_is_that_of_classify_bit_for_bit(
        self, tmp_path: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch, long_bytes: int
    ) -> None:
        """Whether the contents are raw or typed, and are decoded in the loop or aside."""
        monkeypatch.setattr(loop, "LONG_BYTES", long_bytes)
        write_bundle(tmp_path, TILTED, temperature=0.8)
        target = f"127.0.0.1:{start_server(tmp_path).grpc_port}"
        outputs = [Asked(name=name) for name in OUTPUTS]
        with Client(target) as client, grpc.insecure_channel(target) as channel:
            expected = client.classify(LEVELS, members=True).classifications
            for request in (raw(LEVELS, outputs=outputs), typed(LEVELS, outputs=outputs)):
                found = arrays(Stub(channel).ModelInfer(request, timeout=60))
                assert list(found) == list(OUTPUTS)
                for image, one in enumerate(expected):
                    assert np.array_equal(found["probabilities"][image], one.probabilities)
                    assert one.members is not None
                    assert np.array_equal(found["members"][image], one.members)
                    assert found["class"][image] == one.top_classes[0].index
                    for name in ("members_run", "entropy", "mutual_information", "agreement"):
                        assert found[name][image] == getattr(one, name)
        assert len({one.top_classes[0].index for one in expected}) > 1, "the images must differ"

    def test_early_stop_asks_no_more_than_it_must(self, tmp_path: Path, connect: Callable[..., Stub]) -> None:
        """Two sure members lead by 1.96, more than the third could take away; its row is zeros."""
        write_bundle(tmp_path, [StubMember((0.99, 0.01))] * 3)
        request = asking("members", "members_run", "class")
        request.parameters["early_stop"].bool_param = True
        found = arrays(connect(tmp_path).ModelInfer(request, timeout=60))
        assert found["members_run"].tolist() == [2]
        assert found["members"] == pytest.approx(np.array([[[0.99, 0.01], [0.99, 0.01], [0, 0]]]))
        assert found["class"].tolist() == [0]

    def test_max_members_asks_the_first_so_many(self, stub: Stub) -> None:
        request = raw()
        request.parameters["max_members"].int64_param = 1
        assert arrays(stub.ModelInfer(request, timeout=60))["probabilities"] == pytest.approx(
            np.array([[0.7, 0.2, 0.1]])
        )

    @pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2), (3, 3), (99, 3)])
    def test_classification_gives_texts_best_first(self, stub: Stub, asked: int, given: int) -> None:
        request = asking("probabilities", classification=Parameter(int64_param=asked))
        response = stub.ModelInfer(request, timeout=60)
        (output,), (content,) = response.outputs, response.raw_output_contents
        assert (output.name, output.datatype, list(output.shape)) == ("probabilities", "BYTES", [1, given])
        assert texts(content) == ["0.400000:0:class 0", "0.350000:1:class 1", "0.250000:2:class 2"][:given]

    def test_what_known_clients_send_on_their_own_is_understood(self, stub: Stub) -> None:
        """KServe's client states the size of raw contents and how REST would reply, Triton's how streams end."""
        binary = {"binary_data": Parameter(bool_param=True)}
        request = raw(outputs=[Asked(name=name, parameters=binary) for name in ("probabilities", "class")])
        request.parameters["binary_data_output"].bool_param = True
        request.inputs[0].parameters["binary_data_size"].int64_param = 16
        request.parameters["triton_enable_empty_final_response"].bool_param = False
        assert len(stub.ModelInfer(request, timeout=60).outputs) == 2

    def test_name_and_version_choose_the_model(self, tmp_path: Path, connect: Callable[..., Stub]) -> None:
        for name, version in (("a", 1), ("a", 10), ("b", 2)):
            write_bundle(tmp_path, name=name, version=version)
        stub = connect(tmp_path, default_model="b", latest_versions=2)
        for asked, given in {
            ("", ""): ("b", "2"),
            ("a", ""): ("a", "10"),
            ("a", "1"): ("a", "1"),
        }.items():
            response = stub.ModelInfer(raw(model_name=asked[0], model_version=asked[1]), timeout=60)
            assert (response.model_name, response.model_version) == given

    def test_calls_of_both_services_run_together(self, models: Path, start_server: StartServer) -> None:
        """Each waits for company, and two images fill a batch."""
        server = start_server(models, max_delay_seconds=10, max_batch_images=2)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            ours = classifier_pb2_grpc.ClassifierStub(channel).Classify.future(
                consort.ClassifyRequest(
                    raw=consort.RawImages(pixels=bytes(16), shape=BLACK.shape, element_type=UINT8)
                ),
                timeout=60,
            )
            theirs = Stub(channel).ModelInfer.future(raw(), timeout=60)
            both = ours.result().classifications[0].probabilities, arrays(theirs.result())["probabilities"][0]
        assert np.array_equal(*both)
        assert scrape(server, "consort_batch_images_count", "consort_batch_images_sum") == {
            "consort_batch_images_count": 1,
            "consort_batch_images_sum": 2,
        }


class TestRefusals:
    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            (pb.ModelInferRequest(), "the request has inputs (none); expected one, pixels"),
            (tensor(name="image"), "the request has input 'image', expected pixels"),
            (
                pb.ModelInferRequest(inputs=[Tensor(name=name) for name in "abcdef"]),
                "the request has inputs a, b, c, d, ...; expected one, pixels",
            ),
            (
                raw(outputs=[Asked(name="class")] * 8),
                f"the request names 8 outputs; there are {', '.join(OUTPUTS)}",
            ),
            (tensor(shape=[1] * 9), "pixels has shape 1x1x1x1x1x1x1x1, expected (images)x1x4x4"),
            (
                raw(model_version="V" * 200),
                f"model version '{'V' * 100}...' is neither a positive integer nor a label; {LEAVE_EMPTY}",
            ),
            (
                raw(inputs=[Tensor(name="pixels"), Tensor(name="pixels")]),
                "the request has inputs pixels, pixels; expected one, pixels",
            ),
            (tensor(datatype="FP32"), "pixels has datatype FP32, expected UINT8"),
            (tensor(datatype=""), "pixels has datatype (none), expected UINT8"),
            (tensor(shape=[1, 4, 4]), "pixels has shape 1x4x4, expected (images)x1x4x4"),
            (tensor(shape=[1, 1, 5, 4]), "pixels has shape 1x1x5x4, expected (images)x1x4x4"),
            (tensor(shape=[]), "pixels has shape (none), expected (images)x1x4x4"),
            (tensor(shape=[0, 1, 4, 4]), "the request has 0 images, expected 1 to 256"),
            (tensor(shape=[-1, 1, 4, 4]), "the request has -1 images, expected 1 to 256"),
            (tensor(shape=[257, 1, 4, 4]), "the request has 257 images, expected 1 to 256"),
            (tensor(shape=[2**62, 1, 4, 4]), f"the request has {2**62} images, expected 1 to 256"),
            (
                raw(raw_input_contents=[bytes(15)]),
                "raw_input_contents has 15 values, expected 16 for 1x1x4x4 UINT8",
            ),
            (
                tensor(
                    contents=pb.InferTensorContents(uint_contents=[1]),
                    raw_input_contents=[],
                ),
                "uint_contents has 1 values, expected 16 for 1x1x4x4 UINT8",
            ),
            (raw(raw_input_contents=[]), f"values of pixels came as nothing; {EITHER}"),
            (
                raw(raw_input_contents=[bytes(16)] * 2),
                "the request has 2 raw_input_contents, expected one at most",
            ),
            (
                typed(raw_input_contents=[bytes(16)]),
                f"values of pixels came as uint_contents and raw_input_contents; {EITHER}",
            ),
            (typed(field="int_contents"), f"values of pixels came as int_contents; {EITHER}"),
            (
                typed(np.full((1, 1, 4, 4), 256)),
                "uint_contents has values up to 256, expected 0..255",
            ),
            (
                tensor(parameters={"binary_data_size": Parameter(int64_param=15)}),
                "binary_data_size of input pixels is 15, but 16 bytes came",
            ),
            (
                tensor(parameters={"shared_memory_region": Parameter(string_param="x")}),
                f"input pixels has parameter {SHARED}; understood: binary_data_size (int64_param)",
            ),
            (
                raw(parameters={"priority": Parameter(uint64_param=1)}),
                f"the request has parameter 'priority', {UNDERSTOOD}",
            ),
            (
                raw(parameters={"early_stop": Parameter(string_param="yes")}),
                "parameter 'early_stop' of the request is string_param, expected bool_param",
            ),
            (
                raw(parameters={"early_stop": Parameter()}),
                "parameter 'early_stop' of the request is empty, expected bool_param",
            ),
            (
                raw(parameters={"max_members": Parameter(int64_param=-1)}),
                "parameter 'max_members' of the request is -1, expected 0 or more",
            ),
            (
                raw(parameters={"max_members": Parameter(int64_param=3)}),
                "max_members is 3, expected at most 2, or 0 for all",
            ),
            (
                asking("logits"),
                f"there is no output 'logits'; there are {', '.join(OUTPUTS)}",
            ),
            (asking("class", "entropy", "class"), "output 'class' is named 2 times, expected once"),
            (
                asking("class", classification=Parameter(int64_param=1)),
                f"output class has parameter 'classification', which is not understood; understood: {BINARY}",
            ),
            (
                asking("probabilities", classification=Parameter(int64_param=0)),
                "classification of output probabilities is 0, expected 1 or more",
            ),
            (
                asking("probabilities", shared_memory_region=Parameter(string_param="x")),
                f"output probabilities has parameter {SHARED}; understood: classification (int64_param), {BINARY}",
            ),
            (
                raw(model_version="1.0"),
                "model version '1.0' is neither a positive integer nor a label; leave it empty for the default",
            ),
            (
                raw(model_version="0"),
                "model version '0' is neither a positive integer nor a label; leave it empty for the default",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_bad_input(self, stub: Stub, request_: pb.ModelInferRequest, message: str) -> None:
        assert refused(stub.ModelInfer, request_) == (grpc.StatusCode.INVALID_ARGUMENT, message)

    def test_unknown_model_and_version(self, stub: Stub) -> None:
        for call, request in (
            (stub.ModelInfer, raw(model_name="other")),
            (stub.ModelMetadata, pb.ModelMetadataRequest(name="other")),
            (stub.ModelConfig, pb.ModelConfigRequest(name="other")),
            (stub.ModelStatistics, pb.ModelStatisticsRequest(name="other")),
        ):
            message = "no model 'other' is served; there are stub"
            assert refused(call, request) == (grpc.StatusCode.NOT_FOUND, message)
        assert refused(stub.ModelInfer, raw(model_name="stub", model_version="2")) == (
            grpc.StatusCode.NOT_FOUND,
            "model 'stub' has no version 2; served are 1",
        )

    def test_calls_of_both_services_are_limited_together(
        self, models: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While one runs, the one too many is refused, whichever service it asks."""
        running, may_end = threading.Event(), threading.Event()
        run_member = Ensemble.run_member

        def wait_first(ensemble: Ensemble, member: int, pixels: Pixels) -> Floats:
            running.set()
            assert may_end.wait(60)
            return run_member(ensemble, member, pixels)

        monkeypatch.setattr(Ensemble, "run_member", wait_first)
        server = start_server(models, max_concurrent_calls=1)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            ours, theirs = classifier_pb2_grpc.ClassifierStub(channel), Stub(channel)
            first = theirs.ModelInfer.future(raw(), timeout=60)
            assert running.wait(60)
            for call, request in ((theirs.ModelInfer, raw()), (ours.Classify, consort.ClassifyRequest())):
                assert refused(call, request) == (
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    "1 calls are in progress, which is the limit; try again later",
                )
            may_end.set()
            assert len(first.result().outputs) == 2

    @pytest.mark.parametrize("method", ["SystemSharedMemoryStatus", "TraceSetting", "LogSettings"])
    def test_what_is_left_out_is_unimplemented(self, client: Client, method: str) -> None:
        with grpc.insecure_channel(client.target) as channel:
            call: Any = channel.unary_unary(f"/{OPEN_INFERENCE_SERVICE}/{method}")
            code, _ = refused(call, b"")
        assert code == grpc.StatusCode.UNIMPLEMENTED

    def test_streams_are_unimplemented(self, client: Client) -> None:
        with grpc.insecure_channel(client.target) as channel:
            call: Any = channel.stream_stream(f"/{OPEN_INFERENCE_SERVICE}/ModelStreamInfer")
            with pytest.raises(grpc.RpcError) as error:
                next(call(iter([b""]), timeout=60))
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


class TestDescription:
    def test_the_server(self, stub: Stub) -> None:
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        metadata = stub.ServerMetadata(pb.ServerMetadataRequest())
        assert metadata.name == "consort"
        assert metadata.version[0].isdigit()
        assert list(metadata.extensions) == [
            "classification",
            "model_configuration",
            "model_repository",
            "statistics",
        ]

    @pytest.mark.parametrize(
        ("name", "version", "ready"),
        [("stub", "", True), ("stub", "1", True), ("", "", True), ("stub", "2", False), ("other", "", False)],
    )
    def test_whether_a_model_is_ready(self, stub: Stub, name: str, version: str, ready: bool) -> None:
        assert stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready is ready

    def test_a_version_that_is_none_is_refused(self, stub: Stub) -> None:
        code, _ = refused(stub.ModelReady, pb.ModelReadyRequest(name="stub", version="1.5"))
        assert code == grpc.StatusCode.INVALID_ARGUMENT

    def test_metadata_of_a_model(self, tmp_path: Path, connect: Callable[..., Stub]) -> None:
        for version in (2, 10):
            write_bundle(tmp_path, version=version, shape=(3, 5, 6))
        metadata = connect(tmp_path, latest_versions=2).ModelMetadata(
            pb.ModelMetadataRequest(name="stub", version="2")
        )
        assert (metadata.name, list(metadata.versions)) == ("stub", ["2", "10"])
        (pixels,) = metadata.inputs
        assert (pixels.name, pixels.datatype, list(pixels.shape)) == ("pixels", "UINT8", [-1, 3, 5, 6])
        assert [(one.name, one.datatype, list(one.shape)) for one in metadata.outputs] == [
            ("probabilities", "FP32", [-1, 3]),
            ("class", "INT64", [-1]),
            ("members", "FP32", [-1, 2, 3]),
            ("members_run", "INT64", [-1]),
            ("entropy", "FP32", [-1]),
            ("mutual_information", "FP32", [-1]),
            ("agreement", "FP32", [-1]),
        ]

    def test_config_of_a_model(self, models: Path, connect: Callable[..., Stub]) -> None:
        stub = connect(models, max_call_images=100, max_delay_seconds=0.002)
        config = stub.ModelConfig(pb.ModelConfigRequest(name="stub")).config
        assert (config.name, config.backend, config.max_batch_size) == ("stub", "consort", 100)
        assert config.dynamic_batching.max_queue_delay_microseconds == 2000
        (pixels,) = config.input
        assert (pixels.data_type, pixels.format, list(pixels.dims)) == (
            pb.TYPE_UINT8,
            pb.ModelInput.FORMAT_NCHW,
            [1, 4, 4],
        )
        outputs = {one.name: (one.data_type, list(one.dims)) for one in config.output}
        assert outputs["members"] == (pb.TYPE_FP32, [2, 3])
        assert outputs["class"] == (pb.TYPE_INT64, [])


class TestStatistics:
    def test_they_are_those_of_the_metrics(self, models: Path, start_server: StartServer) -> None:
        """Both services count; calls that fail do not."""
        server = start_server(models)
        target = f"127.0.0.1:{server.grpc_port}"
        with Client(target) as client, grpc.insecure_channel(target) as channel:
            stub = Stub(channel)
            stub.ModelInfer(raw(np.repeat(BLACK, 5, axis=0)), timeout=60)
            client.classify(BLACK)
            refused(stub.ModelInfer, pb.ModelInferRequest())
            (found,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="stub")).model_stats
        assert (found.name, found.version) == ("stub", "1")
        assert (found.inference_count, found.execution_count) == (6, 2)
        stages = found.inference_stats
        parts = (stages.compute_input, stages.queue, stages.compute_infer, stages.compute_output)
        assert [part.count for part in (stages.success, *parts)] == [2] * 5
        assert min(part.ns for part in parts) > 0
        assert sum(part.ns for part in parts) == pytest.approx(stages.success.ns, abs=5)
        scraped = scrape(server, "consort_last_answer_timestamp_seconds")["consort_last_answer_timestamp_seconds"]
        assert found.last_inference == int(scraped * 1e3)

    def test_before_the_first_call_all_is_zero(self, models: Path, connect: Callable[..., Stub]) -> None:
        (found,) = connect(models).ModelStatistics(pb.ModelStatisticsRequest()).model_stats
        assert (found.last_inference, found.inference_count, found.execution_count) == (0, 0, 0)
        assert found.inference_stats.success == pb.StatisticDuration()

    @pytest.mark.parametrize(
        ("name", "version", "found"),
        [
            ("", "", [("a", "1"), ("a", "10"), ("b", "2")]),
            ("a", "", [("a", "1"), ("a", "10")]),
            ("a", "1", [("a", "1")]),
            ("", "2", [("b", "2")]),
        ],
    )
    def test_name_and_version_choose_whose(
        self, tmp_path: Path, connect: Callable[..., Stub], name: str, version: str, found: list[tuple[str, str]]
    ) -> None:
        """A version without a name is of the default model."""
        for one, number in (("a", 1), ("a", 10), ("b", 2)):
            write_bundle(tmp_path, name=one, version=number)
        stub = connect(tmp_path, default_model="b", latest_versions=2)
        statistics = stub.ModelStatistics(pb.ModelStatisticsRequest(name=name, version=version)).model_stats
        assert [(one.name, one.version) for one in statistics] == found


class TestLife:
    def test_its_health_is_reported(self, client: Client) -> None:
        with grpc.insecure_channel(client.target) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
            reply = health.Check(health_pb2.HealthCheckRequest(service=OPEN_INFERENCE_SERVICE), timeout=60)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING

    def test_reflection_describes_it(self, client: Client) -> None:
        with grpc.insecure_channel(client.target) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert "inference.GRPCInferenceService" in set(database.get_services())
            file: FileDescriptorProto = database.FindFileContainingSymbol(OPEN_INFERENCE_SERVICE)
        assert file.package == "inference"
