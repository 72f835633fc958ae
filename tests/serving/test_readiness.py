"""Those who watch the health are told, and whatever they do holds up nobody else."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.settings import SettingCodes

from benchmarks.fuzzing.peers import Peer
from serving.loop import EventLoop
from serving.readiness import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health
from serving.server import Server
from tests.serving.test_server import target, wait_for

WATCH = "/grpc.health.v1.Health/Watch"
LEAVING = 4
TURNS = 500
STUCK = 8


@contextmanager
def serve() -> Iterator[tuple[Health, grpc.Channel]]:
    """The health of a server that has nothing else, and a channel to it."""
    calls = EventLoop()
    health = Health(calls.loop)

    async def start() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = calls.run(start())
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield health, channel
    finally:
        calls.run(server.stop(None))
        calls.close()


def watch(channel: grpc.Channel, service: str = "") -> Any:
    """A call that watches a service, and its statuses as they come."""
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
    replies = stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)
    return replies, (reply.status for reply in replies)


def check(channel: grpc.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
    return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status)


def test_who_watches_is_told_of_every_state_once_and_in_order() -> None:
    with serve() as (health, channel):
        _, statuses = watch(channel, "later")
        assert next(statuses) == SERVICE_UNKNOWN
        for status in (SERVING, NOT_SERVING, SERVING):
            health.set("later", status)
            assert next(statuses) == status
        health.set("later", SERVING)
        health.set("other", SERVING)
        health.enter_graceful_shutdown()
        health.set("later", SERVING)
        assert next(statuses) == NOT_SERVING


def test_a_watcher_may_leave_at_any_moment() -> None:
    """Such as the very one at which the status changes."""
    over = threading.Event()

    def come_and_go(channel: grpc.Channel) -> None:
        for _ in range(TURNS):
            replies, statuses = watch(channel)
            next(statuses)
            replies.cancel()

    def change(health: Health) -> None:
        for status in itertools.cycle((SERVING, NOT_SERVING)):
            health.set("", status)
            if over.wait(0.001):
                return

    with serve() as (health, channel), ThreadPoolExecutor(LEAVING) as leaving:
        changing = threading.Thread(target=change, args=(health,), daemon=True)
        changing.start()
        try:
            for one in [leaving.submit(come_and_go, channel) for _ in range(LEAVING)]:
                one.result()
        finally:
            over.set()
        changing.join(60)
        assert not changing.is_alive()
        health.set("", SERVING)
        assert check(channel) == SERVING


def test_a_watcher_that_takes_no_message_holds_up_neither_the_others_nor_the_end(
    models: Path, start_server: Callable[..., Server]
) -> None:
    """By HTTP/2's flow control, which lets nothing through."""
    server = start_server(models, grace_seconds=600)
    with Peer(target(server)) as peer, grpc.insecure_channel(target(server)) as channel:
        peer.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        for _ in range(STUCK):
            peer.send(peer.begin(WATCH), b"")
        arrived = "consort_arrived_calls_total"
        wait_for(lambda: server.registry.get_sample_value(arrived, {"method": "Watch"}) == STUCK)
        _, statuses = watch(channel)
        assert next(statuses) == SERVING
        draining = threading.Thread(target=server.drain)
        draining.start()
        assert next(statuses) == NOT_SERVING
        draining.join(60)
        assert not draining.is_alive()
