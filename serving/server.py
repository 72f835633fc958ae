"""The server's life: start, serve, drain, stop."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any

import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from machine.cores import available_cores
from protos.consort.v1 import classifier_pb2, classifier_pb2_grpc, model_control_pb2, model_control_pb2_grpc
from protos.open_inference.v2 import grpc_service_pb2, grpc_service_pb2_grpc
from serving.access_log import open_access_log
from serving.admission import Admission
from serving.call_server import CallServer, Services
from serving.context import Context
from serving.control import ModelControl, ModelControlServicer
from serving.inference import InferenceThreads
from serving.interceptor import CallInterceptor
from serving.loop import EventLoop
from serving.metrics import Metrics
from serving.model_health import ModelHealth
from serving.observation import CallWatch
from serving.open_inference.servicer import OpenInferenceServicer
from serving.ports import address_of, port_taken
from serving.providers import require_provider
from serving.readiness import SERVING, Health
from serving.rollout import Rollout
from serving.security.connections import connection_options
from serving.security.credentials import Credentials
from serving.security.metrics_port import MetricsServer
from serving.servicer import ClassifierServicer
from serving.settings import ServerSettings
from serving.statuses import Status
from serving.tracing import open_tracing
from serving.watcher import Watcher

SERVICE = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name
OPEN_INFERENCE_SERVICE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MODEL_CONTROL_SERVICE = model_control_pb2.DESCRIPTOR.services_by_name["ModelControl"].full_name

FLUSH_SECONDS = 0.5
"""How long those who watch the health have to hear that it is over, before their streams are ended."""

LAST_REPLIES_SECONDS = 0.5
"""How long the last replies have to leave, before connections that stay open are ended."""

SIGNAL_SECONDS = 0.5
"""How long a signal may go unnoticed."""

log = structlog.get_logger()


class Server:
    """One process that serves. Its four steps are called once each, in this order.

    A worker, one of several such processes, shares its port with the others and leaves metrics to its supervisor.
    """

    def __init__(self, settings: ServerSettings, *, is_worker: bool = False) -> None:
        self.settings = settings
        self.grpc_port = 0
        self.metrics_port = 0
        self._is_worker = is_worker
        self._metrics = Metrics()
        self._metrics_server: MetricsServer | None = None
        self._asked_to_stop = threading.Event()
        self._has_failed = False

    def start(self) -> None:
        """Load and prove all models, open both ports, report SERVING.

        Raises:
            StartupError: Something is not as the settings ask; no port is left open.
        """
        started = time.perf_counter()
        self.load()
        self.open(self.settings.grpc_port)
        log.info(
            "ready",
            grpc_port=self.grpc_port,
            metrics_port=self.metrics_port,
            inference_threads=self._threads,
            seconds=round(time.perf_counter() - started, 3),
        )

    def load(self) -> None:
        """Load and prove all models.

        Raises:
            StartupError: Something is not as the settings ask.
        """
        settings = self.settings
        if settings.provider != "auto":
            require_provider(settings.provider)
        self._threads = settings.threads or available_cores()
        self._inference_threads = InferenceThreads(self._threads)
        self._tracing = open_tracing(settings.trace_endpoint)
        watch = CallWatch([*self._tracing, *open_access_log(settings)])
        self._credentials = Credentials(settings, self._metrics.callers, watch)
        self._admission = Admission(settings.max_concurrent_calls)
        self._rollout = Rollout(settings, self._inference_threads, self._metrics, self._admission)
        self._rollout.start()
        self._watcher = Watcher(self._rollout, self._metrics, settings.watch_seconds)
        self._calls = EventLoop()
        self._health = Health(self._calls.loop)
        self._interceptor = CallInterceptor(
            self._metrics.calls,
            self._admission,
            watch,
            settings.message_seconds,
        )
        self._grpc = self._calls.run(self._build_grpc())

    def open(self, grpc_port: int) -> None:
        """Open both ports, and report SERVING.

        Raises:
            PortTaken: One of them cannot be listened on; neither is left open.
        """
        self._open_ports(grpc_port)
        self._report_serving()
        self._watcher.start()

    @property
    def registry(self) -> CollectorRegistry:
        """What is counted."""
        return self._metrics.registry

    @property
    def default_model(self) -> str | None:
        """What a call means that names no model, once all are loaded."""
        return self._rollout.models.default_name

    def serve(self) -> bool:
        """Wait until `request_stop` is called, from a signal handler or another thread.

        Returns:
            Whether all was well until then; if not, gRPC takes no more calls.
        """
        # A signal that the system hands to another thread does not wake this one, which has to run its handler.
        while not self._asked_to_stop.wait(SIGNAL_SECONDS):
            pass
        return not self._has_failed

    def wait_for_loop(self) -> None:
        """Return once the loop that answers calls has come round, or is closed."""
        with suppress(RuntimeError):
            self._calls.run(asyncio.sleep(0))

    def request_stop(self) -> None:
        """Let `serve` return."""
        self._asked_to_stop.set()

    def drain(self) -> None:
        """Report NOT_SERVING, refuse calls after a delay, let those in progress finish within `grace_seconds`."""
        delay_seconds = self.settings.drain_delay_seconds
        log.info("draining", drain_delay_seconds=delay_seconds, grace_seconds=self.settings.grace_seconds)
        self._health.enter_graceful_shutdown()
        self._rollout.stop()
        self._watcher.stop()
        time.sleep(delay_seconds)  # calls are taken meanwhile: who sends them has yet to hear
        self._calls.run(self._end_calls())

    def stop(self) -> None:
        """Release threads and ports."""
        self._watcher.join()
        self._rollout.close()
        self._inference_threads.close()
        self._calls.close()
        self._close_metrics()
        self._credentials.close()
        for tracing in self._tracing:
            tracing.close()
        log.info("stopped")

    async def _build_grpc(self) -> CallServer:
        settings = self.settings
        services: Any = Services()  # what follows takes it for a server
        models, control = self._rollout.models, ModelControl(self._rollout, settings)
        classifier_pb2_grpc.add_ClassifierServicer_to_server(
            ClassifierServicer(models, self._rollout.refusals, self._admission, settings), services
        )
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            OpenInferenceServicer(models, control, self._admission, settings, self._health.is_ready), services
        )
        model_control_pb2_grpc.add_ModelControlServicer_to_server(ModelControlServicer(control), services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        if settings.reflection if settings.reflection is not None else not settings.asks_who_calls:
            ours = (SERVICE, OPEN_INFERENCE_SERVICE, MODEL_CONTROL_SERVICE)
            names = (*ours, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
                reflection.aio.ReflectionServicer(names), services
            )
        return CallServer(
            services.methods,
            self._find_refusal,
            interceptors=[*self._credentials.interceptors, self._interceptor],
            options=[
                # A second server on the same port must fail, not share its calls; workers are one server.
                ("grpc.so_reuseport", int(self._is_worker)),
                ("grpc.max_receive_message_length", settings.max_call_bytes),
                ("grpc.max_send_message_length", -1),
                *connection_options(settings),
            ],
        )

    def _find_refusal(self, method: str, context: Context) -> Status | None:
        """What ends a call at once: that there is no place for it, unless it has no token that lets it hear so."""
        if self._interceptor.is_full(method) and self._credentials.lets_pass(method, context):
            return self._interceptor.refuse(method, context)
        return None

    def _open_ports(self, grpc_port: int) -> None:
        host = self.settings.host
        if not self._is_worker:
            port = self.settings.metrics_port
            self._metrics_server = self._credentials.open_metrics(host, port, self.registry)
            self.metrics_port = self._metrics_server.server_port
        try:
            self.grpc_port = self._calls.run(self._open_grpc(address_of(host, grpc_port)))
        except RuntimeError as error:
            self._close_metrics()
            raise port_taken(host, grpc_port) from error

    async def _open_grpc(self, address: str) -> int:
        port = self._credentials.add_port(self._grpc, address)
        await self._grpc.start()
        self._watch = asyncio.create_task(self._watch_grpc())
        return port

    async def _watch_grpc(self) -> None:
        """Stop when gRPC takes no more calls: whoever watches over the process starts another."""
        try:
            await self._grpc.wait_for_termination()
        except Exception:  # what ended its task, whatever that is
            self._has_failed = True
            log.exception("no more calls are taken")
            self.request_stop()

    async def _end_calls(self) -> None:
        """Let calls end within the grace, then streams and connections that do not end by themselves."""
        stopped = asyncio.ensure_future(self._grpc.stop(self.settings.grace_seconds))
        await asyncio.wait([stopped], timeout=FLUSH_SECONDS)
        self._interceptor.end_streams()
        is_answering = True
        while is_answering and not stopped.done():
            is_answering = self._interceptor.is_answering()
            await asyncio.wait([stopped], timeout=LAST_REPLIES_SECONDS)
        await self._grpc.stop(None)
        await stopped

    def _close_metrics(self) -> None:
        if self._metrics_server is not None:
            self._metrics_server.close()

    def _report_serving(self) -> None:
        for service in ("", SERVICE, OPEN_INFERENCE_SERVICE):  # the empty name stands for the server as a whole
            self._health.set(service, SERVING)
        self._rollout.report_to(ModelHealth(self._health).report)
