"""What Prometheus is told beyond times: what came, was refused, left and waited, and what drift is measured by."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from benchmarks.fuzzing.peers import Peer
from protos.consort.v1 import classifier_pb2 as pb
from protos.consort.v1 import classifier_pb2_grpc
from serving.call_server import CALLS_AT_ONCE
from serving.client import CallError, Client
from serving.ensemble import Ensemble
from serving.interceptor import NO_METHOD
from serving.server import Server
from tests.bundles import write_bundle
from tests.serving.test_server import BLACK, Gate, expire, raw, scrape, target, wait_for

StartServer = Callable[..., Server]
METHOD = "/consort.v1.Classifier/Classify"
STUB = {"model": "stub", "version": "1"}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Holds back every member of every server that is started after it."""
    gate = Gate()
    monkeypatch.setattr(Ensemble, "run_member", gate.hold(Ensemble.run_member))
    yield gate
    gate.open()


def sample(server: Server, name: str, **labels: str) -> float | None:
    """The value of one sample; None if there is none."""
    return scrape(server).get((name, frozenset(labels.items())))


def timed(server: Server) -> float:
    """Calls of `Classify` that have ended, whatever with."""
    return sum(
        value
        for (name, labels), value in scrape(server).items()
        if name == "consort_call_seconds_count" and ("method", "Classify") in labels
    )


def refused(server: Server, reason: str, method: str = "Classify") -> float | None:
    return sample(server, "consort_refused_calls_total", method=method, reason=reason)


def gone(server: Server, reason: str, outcome: str) -> float | None:
    return sample(server, "consort_gone_calls_total", method="Classify", reason=reason, outcome=outcome)


def has_ended(server: Server, answered: int) -> bool:
    """Whether one call ran for nobody, or so many were answered."""
    ok = sample(server, "consort_call_seconds_count", method="Classify", code="OK")
    return gone(server, "cancelled", "ran") == 1 or ok == answered


class TestQueue:
    def test_what_waits_is_seen_while_it_waits(self, models: Path, gate: Gate, start_server: StartServer) -> None:
        """One image runs, calls of two and three wait."""
        server = start_server(models, threads=1)
        assert sample(server, "consort_queue_oldest_seconds", **STUB) == 0
        with grpc.insecure_channel(target(server)) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            calls = [stub.Classify.future(raw(), timeout=60)]
            gate.wait_until_held()
            calls += [stub.Classify.future(raw(bytes(16 * many), (many, 1, 4, 4)), timeout=60) for many in (2, 3)]
            wait_for(lambda: sample(server, "consort_queue_calls", **STUB) == 2)
            assert sample(server, "consort_queue_images", **STUB) == 5
            first, second = (sample(server, "consort_queue_oldest_seconds", **STUB) for _ in range(2))
            assert first is not None
            assert second is not None
            assert 0 < first < second
            gate.open()
            for call in calls:
                call.result()
        assert sample(server, "consort_queue_calls", **STUB) == 0
        assert sample(server, "consort_queue_images", **STUB) == 0


class TestRefusals:
    def test_each_reason_is_counted_by_itself(self, models: Path, start_server: StartServer) -> None:
        server = start_server(models)
        with Client(target(server)) as client:
            with pytest.raises(CallError):
                client.classify(BLACK, model="x")
            with pytest.raises(CallError):
                client.classify([b"x"])
        assert refused(server, "UnknownModel") == 1
        assert refused(server, "InvalidRequest") == 1
        assert refused(server, "QueueFull") is None

    def test_a_full_queue_and_too_many_calls_are_told_apart(
        self, models: Path, gate: Gate, start_server: StartServer
    ) -> None:
        """One call runs and one waits; a third would be one too many."""
        server = start_server(models, max_queue_images=1, max_call_images=1, max_concurrent_calls=2, threads=1)
        with grpc.insecure_channel(target(server)) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            calls = [stub.Classify.future(raw(), timeout=60)]
            gate.wait_until_held()
            calls.append(stub.Classify.future(raw(), timeout=60))
            wait_for(lambda: sample(server, "consort_queue_calls", **STUB) == 1)
            with pytest.raises(grpc.RpcError):
                stub.Classify(raw(), timeout=60)
            assert refused(server, "TooManyCalls") == 1
            gate.open()
            for call in calls:
                call.result()

    def test_a_call_too_many_is_counted_and_told_when_to_come_again(
        self, models: Path, gate: Gate, start_server: StartServer
    ) -> None:
        server = start_server(models, max_concurrent_calls=1)
        with grpc.insecure_channel(target(server)) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            running = stub.Classify.future(raw(), timeout=60)
            gate.wait_until_held()
            for _ in range(3):
                with pytest.raises(grpc.RpcError, match="1 calls are in progress, which is the limit") as error:
                    stub.Classify(raw(), timeout=60)
                assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                metadata: Any = error.value.trailing_metadata()
                assert dict(metadata) == {"grpc-retry-pushback-ms": "100"}
            gate.open()
            running.result()
        assert refused(server, "TooManyCalls") == 3
        assert sample(server, "consort_arrived_calls_total", method="Classify") == 4
        too_many = {"method": "Classify", "code": "RESOURCE_EXHAUSTED"}
        assert sample(server, "consort_call_seconds_count", **too_many) == 3

    def test_of_calls_that_come_together_no_more_than_may_be_get_a_place(
        self, models: Path, start_server: StartServer
    ) -> None:
        """Many are taken in before the first of them has begun."""
        server = start_server(models, max_concurrent_calls=2)
        with Peer(target(server)) as peer:
            peer.begin(METHOD, many=CALLS_AT_ONCE)
            wait_for(lambda: refused(server, "TooManyCalls") == CALLS_AT_ONCE - 2)
            wait_for(lambda: sample(server, "consort_in_flight_calls", method="Classify") == 2)
        wait_for(lambda: sample(server, "consort_in_flight_calls", method="Classify") == 0)

    def test_a_full_queue(self, models: Path, gate: Gate, start_server: StartServer) -> None:
        server = start_server(models, max_queue_images=1, max_call_images=1, threads=1)
        with grpc.insecure_channel(target(server)) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            calls = [stub.Classify.future(raw(), timeout=60)]
            gate.wait_until_held()
            calls.append(stub.Classify.future(raw(), timeout=60))
            wait_for(lambda: sample(server, "consort_queue_calls", **STUB) == 1)
            with pytest.raises(grpc.RpcError):
                stub.Classify(raw(), timeout=60)
            assert refused(server, "QueueFull") == 1
            gate.open()
            for call in calls:
                call.result()

    def test_what_grpc_itself_ends_is_counted_like_any_other_call(
        self, models: Path, start_server: StartServer
    ) -> None:
        """It ends a message that is too large, when the call has begun."""
        server = start_server(models, max_call_bytes=2000)
        with Client(target(server)) as client:
            with pytest.raises(CallError, match="RESOURCE_EXHAUSTED"):
                client.classify(np.zeros((200, 1, 4, 4), np.uint8))
            client.classify(BLACK)
        assert sample(server, "consort_arrived_calls_total", method="Classify") == 2
        wait_for(lambda: timed(server) == 2)
        assert sample(server, "consort_call_seconds_count", method="Classify", code="OK") == 1

    def test_methods_that_there_are_not_count_as_one(self, models: Path, start_server: StartServer) -> None:
        """Names that callers make up become no labels."""
        server = start_server(models)
        with grpc.insecure_channel(target(server)) as channel:
            for method in ("/consort.v1.Classifier/Guess", "/other/Thing"):
                ask: Any = channel.unary_unary(method)
                with pytest.raises(grpc.RpcError) as error:
                    ask(b"", timeout=60)
                assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert sample(server, "consort_arrived_calls_total", method=NO_METHOD) == 2


class TestCallersWhoLeave:
    def test_those_who_leave_before_their_turn_are_dropped(
        self, models: Path, gate: Gate, start_server: StartServer
    ) -> None:
        """While one call runs, a second is cancelled and a third is too late."""
        server = start_server(models, threads=1)
        with grpc.insecure_channel(target(server)) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            running = stub.Classify.future(raw(), timeout=60)
            gate.wait_until_held()
            leaving = stub.Classify.future(raw(), timeout=60)
            wait_for(lambda: sample(server, "consort_queue_calls", **STUB) == 1)
            leaving.cancel()
            wait_for(lambda: gone(server, "cancelled", "dropped") == 1)
            expire(stub, lambda: gone(server, "expired", "dropped") is not None)
            gate.open()
            running.result()
        assert gone(server, "expired", "ran") is None

    def test_a_call_that_ran_for_nobody_is_counted_as_such(
        self, models: Path, gate: Gate, start_server: StartServer
    ) -> None:
        """Its caller leaves while it runs. When the server hears of it nobody sees: it gets more and more time."""
        server = start_server(models, threads=1)
        with grpc.insecure_channel(target(server)) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            for attempt, turns in enumerate((1, 10, 100, 1000), start=1):
                gate.shut()
                running = stub.Classify.future(raw(), timeout=60)
                gate.wait_until_held()
                running.cancel()
                for _ in range(turns):
                    stub.ListModels(pb.ListModelsRequest(), timeout=60)
                gate.open()
                wait_for(partial(has_ended, server, attempt))
                if gone(server, "cancelled", "ran"):
                    return
        raise AssertionError("the server never heard that its caller had gone")

    def test_a_call_whose_caller_goes_while_its_answer_is_written_has_run_for_nobody(
        self, models: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writing = threading.Event()

        async def write_for_ever(*_: object) -> Any:
            writing.set()
            await asyncio.Event().wait()

        monkeypatch.setattr("serving.servicer.aside_if_long", write_for_ever)
        server = start_server(models)
        with grpc.insecure_channel(target(server)) as channel:
            call = classifier_pb2_grpc.ClassifierStub(channel).Classify.future(raw(), timeout=60)
            assert writing.wait(60)
            call.cancel()
            wait_for(lambda: gone(server, "cancelled", "ran") == 1)
        assert gone(server, "cancelled", "dropped") is None


class TestDrift:
    def test_entropy_and_agreement_add_up_over_images_of_which_all_members_were_asked(
        self, models: Path, start_server: StartServer
    ) -> None:
        """The average (0.4, 0.35, 0.25), on which one of two members agrees.

        Fewer members agree more easily, and with early stop all of them see the hardest images alone.
        """
        server = start_server(models)
        with Client(target(server)) as client:
            client.classify(np.repeat(BLACK, 5, axis=0))
            client.classify(BLACK, max_members=1)
            client.classify(BLACK, early_stop=True)
        average = np.array([0.4, 0.35, 0.25])
        entropy = -float((average * np.log(average)).sum())
        assert sample(server, "consort_judged_images_total", **STUB) == 5
        assert sample(server, "consort_judged_entropy_nats_total", **STUB) == pytest.approx(5 * entropy, rel=1e-5)
        assert sample(server, "consort_judged_agreement_total", **STUB) == pytest.approx(2.5)

    def test_what_the_bundle_expects_stands_beside(self, tmp_path: Path, start_server: StartServer) -> None:
        write_bundle(
            tmp_path,
            expected={"images": 100, "class_shares": [0.5, 0.3, 0.2], "entropy": 0.25, "agreement": 0.75},
        )
        server = start_server(tmp_path)
        assert sample(server, "consort_expected_class_share", **STUB, class_label="class 1") == 0.3
        assert sample(server, "consort_expected_entropy_nats", **STUB) == 0.25
        assert sample(server, "consort_expected_agreement", **STUB) == 0.75

    def test_a_bundle_that_expects_nothing_has_no_gauges(self, models: Path, start_server: StartServer) -> None:
        names = {name for name, _ in scrape(start_server(models))}
        assert not {name for name in names if name.startswith("consort_expected")}
