"""The server's life: start, serve, drain, stop."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from machine.cores import available_cores
from protos.consort.v1 import classifier_pb2, classifier_pb2_grpc, model_control_pb2, model_control_pb2_grpc
from protos.open_inference.v2 import grpc_service_pb2, grpc_service_pb2_grpc
from serving.access_log import open_access_log
from serving.admission import Admission
from serving.control import ModelControl, ModelControlServicer
from serving.errors import PortTaken
from serving.inference import InferenceThreads
from serving.interceptor import CallInterceptor
from serving.metrics import Metrics
from serving.model_health import ModelHealth
from serving.open_inference.servicer import OpenInferenceServicer
from serving.providers import require_provider
from serving.readiness import Health
from serving.rollout import Rollout
from serving.security.connections import connection_options
from serving.security.credentials import Credentials
from serving.servicer import ClassifierServicer
from serving.settings import ServerSettings
from serving.tracing import open_tracing
from serving.watcher import Watcher

SERVICE = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name
OPEN_INFERENCE_SERVICE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MODEL_CONTROL_SERVICE = model_control_pb2.DESCRIPTOR.services_by_name["ModelControl"].full_name

FLUSH_SECONDS = 0.5
"""How long those who watch the health have to hear that it is over, before their streams are ended."""

SIGNAL_SECONDS = 0.5
"""How long a signal may go unnoticed."""

SPARE_THREADS = 8
"""Beyond those that may wait for inference: they answer health checks meanwhile."""

log = structlog.get_logger()


class Server:
    """One process that serves. Its four steps are called once each, in this order."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.grpc_port = 0
        self.metrics_port = 0
        self._asked_to_stop = threading.Event()

    def start(self) -> None:
        """Load and prove all models, open both ports, report SERVING.

        Raises:
            StartupError: Something is not as the settings ask; no port is left open.
        """
        started = time.perf_counter()
        settings = self.settings
        if settings.provider != "auto":
            require_provider(settings.provider)
        threads = settings.threads or available_cores()
        self._inference_threads = InferenceThreads(threads)
        self._metrics = Metrics()
        self._credentials = Credentials(settings, self._metrics)
        self._tracing = open_tracing(settings.trace_endpoint)
        self._admission = Admission(settings.max_concurrent_calls)
        self._rollout = Rollout(settings, self._inference_threads, self._metrics, self._admission)
        self._rollout.start()
        self._watcher = Watcher(self._rollout, self._metrics, settings.watch_seconds)
        self._health = Health()
        self._interceptor = CallInterceptor(
            self._metrics, self._admission, [*self._tracing, *open_access_log(settings)]
        )
        self._grpc = self._build_grpc()
        self._open_ports()
        self._report_serving()
        self._watcher.start()
        log.info(
            "ready",
            grpc_port=self.grpc_port,
            metrics_port=self.metrics_port,
            inference_threads=threads,
            seconds=round(time.perf_counter() - started, 3),
        )

    def serve(self) -> None:
        """Wait until `request_stop` is called, from a signal handler or another thread."""
        # A signal that the system hands to another thread does not wake this one, which has to run its handler.
        while not self._asked_to_stop.wait(SIGNAL_SECONDS):
            pass

    def request_stop(self) -> None:
        """Let `serve` return."""
        self._asked_to_stop.set()

    def drain(self) -> None:
        """Report NOT_SERVING, refuse calls after a delay, let those in progress finish within `grace_seconds`."""
        delay_seconds = self.settings.drain_delay_seconds
        log.info("draining", drain_delay_seconds=delay_seconds, grace_seconds=self.settings.grace_seconds)
        self._health.enter_graceful_shutdown()
        self._watcher.stop()
        time.sleep(delay_seconds)  # calls are taken meanwhile: who sends them has yet to hear
        stopped = self._grpc.stop(self.settings.grace_seconds)
        if not stopped.wait(FLUSH_SECONDS):
            self._interceptor.cancel_streams()
            stopped.wait()

    def stop(self) -> None:
        """Release threads and ports."""
        self._watcher.join()
        self._rollout.close()
        self._inference_threads.close()
        self._metrics_server.shutdown()
        self._metrics_server.server_close()
        self._credentials.close()
        for tracing in self._tracing:
            tracing.close()
        log.info("stopped")

    def _build_grpc(self) -> grpc.Server:
        settings = self.settings
        server = grpc.server(
            ThreadPoolExecutor(settings.max_concurrent_calls + SPARE_THREADS, thread_name_prefix="call"),
            interceptors=[*self._credentials.interceptors(), self._interceptor],
            options=[
                ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not share its calls
                ("grpc.max_receive_message_length", settings.max_call_bytes),
                ("grpc.max_send_message_length", -1),
                *connection_options(settings),
            ],
        )
        models, control = self._rollout.models, ModelControl(self._rollout, settings)
        classifier_pb2_grpc.add_ClassifierServicer_to_server(
            ClassifierServicer(models, self._rollout.refusals, self._admission, settings), server
        )
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            OpenInferenceServicer(models, control, self._admission, settings, self._health.is_ready), server
        )
        model_control_pb2_grpc.add_ModelControlServicer_to_server(ModelControlServicer(control), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.reflection if settings.reflection is not None else not settings.asks_who_calls:
            ours = (SERVICE, OPEN_INFERENCE_SERVICE, MODEL_CONTROL_SERVICE)
            services = (*ours, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(services, server)
        return server

    def _open_ports(self) -> None:
        host, port = self.settings.host, self.settings.metrics_port
        try:
            self._metrics_server = self._credentials.open_metrics(host, port)
        except OSError as error:
            raise PortTaken(f"metrics port {host}:{port} cannot be opened: {error.strerror}") from error
        self.metrics_port = self._metrics_server.server_port
        address = f"{f'[{host}]' if ':' in host else host}:{self.settings.grpc_port}"
        try:
            self.grpc_port = self._credentials.add_port(self._grpc, address)
        except RuntimeError as error:
            self._metrics_server.shutdown()
            self._metrics_server.server_close()
            raise PortTaken(
                f"gRPC address {address} cannot be listened on; is another server running, or the host not of "
                f"this machine?"
            ) from error
        self._grpc.start()

    def _report_serving(self) -> None:
        for service in ("", SERVICE, OPEN_INFERENCE_SERVICE):  # the empty name stands for the server as a whole
            self._health.report_serving(service)
        self._rollout.report_to(ModelHealth(self._health).report)
