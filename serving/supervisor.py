"""Several processes that serve: started together, replaced when one ends, drained together, counted as one.

One Python process takes in only so many calls a second, whatever the number of cores. Workers are processes of
`serving.worker`, each with all models and a part of the inference threads. The kernel spreads connections over
them.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from machine.cores import available_cores
from serving.errors import StartupError
from serving.merging import MergedMetrics
from serving.metrics import Metrics
from serving.ports import hold_port
from serving.security.credentials import Credentials
from serving.settings import ServerSettings
from serving.worker_process import WorkerProcess

CORES_PER_WORKER = 4
"""How many cores one Python process feeds; measured, see docs/decisions/0017."""
RETRY_SECONDS = 5.0
"""How long to wait before a worker that could not be replaced is tried again."""
ASK_SECONDS = 5.0
"""How often workers are asked for a sign of life."""
SILENT_SECONDS = 30.0
"""How long a worker may give none before it is killed, and replaced."""
END_SECONDS = 15.0
"""How long workers may take to end beyond `drain_delay_seconds` and `grace_seconds`, before they are killed."""
SIGNAL_SECONDS = 0.5
"""How long a signal may go unnoticed."""

log = structlog.get_logger()


def count_workers(settings: ServerSettings) -> int:
    """How many workers the settings ask for, or else what suits the cores; 1 is a server without a supervisor."""
    if settings.workers is not None:
        return settings.workers
    if settings.model_control or sys.platform != "linux":
        return 1
    return max(1, (settings.threads or available_cores()) // CORES_PER_WORKER)


def share_threads(threads: int, workers: int) -> list[int]:
    """Inference threads of each worker: together as many as asked for, at least one each."""
    return [max(1, threads // workers + (number < threads % workers)) for number in range(workers)]


class Supervisor:
    """The process that starts workers, keeps their number, and answers Prometheus for all of them.

    Its four steps are those of `serving.server.Server`: each is called once, in this order.
    """

    def __init__(self, settings: ServerSettings, workers: int) -> None:
        self.grpc_port = 0
        self.metrics_port = 0
        self._settings = settings
        shares = share_threads(settings.threads or available_cores(), workers)
        self._shares = {
            number: settings.model_copy(update={"threads": threads, "workers": 1})
            for number, threads in enumerate(shares, start=1)
        }
        """The settings of each worker, by its number."""
        self._workers: dict[int, WorkerProcess] = {}
        self._keepers: list[threading.Thread] = []
        self._changing = threading.Lock()
        """Guards the workers: none begins once the server is stopping."""
        self._stopping = threading.Event()
        self._asked_to_stop = threading.Event()
        self._closing = ExitStack()

    def start(self) -> None:
        """Have all workers load and prove all models, then open both ports.

        Raises:
            StartupError: Something is not as the settings ask; no worker and no port is left.
        """
        started = time.perf_counter()
        try:
            self._start()
        except StartupError:
            self._closing.close()
            raise
        log.info(
            "ready",
            grpc_port=self.grpc_port,
            metrics_port=self.metrics_port,
            workers=len(self._workers),
            inference_threads=sum(share.threads or 0 for share in self._shares.values()),
            seconds=round(time.perf_counter() - started, 3),
        )

    def serve(self) -> bool:
        """Wait until `request_stop` is called, from a signal handler or another thread.

        Returns:
            True: a worker that does not do well is replaced.
        """
        while not self._asked_to_stop.wait(SIGNAL_SECONDS):  # as `Server.serve`
            pass
        return True

    def request_stop(self) -> None:
        """Let `serve` return."""
        self._asked_to_stop.set()

    def drain(self) -> None:
        """Have all workers drain at once, and wait until they have ended."""
        settings = self._settings
        log.info(
            "draining", drain_delay_seconds=settings.drain_delay_seconds, grace_seconds=settings.grace_seconds
        )
        until = time.monotonic() + settings.drain_delay_seconds + settings.grace_seconds + END_SECONDS
        with self._changing:
            self._stopping.set()
            for worker in self._workers.values():
                worker.terminate()
        for keeper in self._keepers:
            keeper.join(max(0.0, until - time.monotonic()))

    def stop(self) -> None:
        """Release the ports, and kill what has not ended by itself."""
        self._closing.close()
        log.info("stopped")

    def _start(self) -> None:
        settings, metrics = self._settings, Metrics()
        self._merged = MergedMetrics(metrics.registry)
        self._lost = watch_workers(metrics.registry, self._merged, len(self._shares))
        self._credentials = Credentials(settings, metrics.callers)
        self._closing.callback(self._credentials.close)
        self._closing.callback(self._kill_all)
        for number in self._shares:
            self._begin(number)
        default_model = self._hear_all()[0]
        held = self._closing.enter_context(hold_port(settings.host, settings.grpc_port))
        self.grpc_port = held.getsockname()[1]
        self._open_metrics()
        for worker in self._workers.values():
            worker.open(self.grpc_port)
        self._hear_all()
        # For those that replace them: what was refused since must not stop them, and no name means what it did.
        later = {"strict_start": False, "default_model": default_model}
        self._shares = {number: share.model_copy(update=later) for number, share in self._shares.items()}
        for worker in self._workers.values():
            self._merged.add(worker)
        for number in self._workers:
            self._keepers.append(threading.Thread(target=self._keep, args=(number,), daemon=True))
            self._keepers[-1].start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _open_metrics(self) -> None:
        registry = CollectorRegistry()
        registry.register(self._merged)
        server = self._credentials.open_metrics(self._settings.host, self._settings.metrics_port, registry)
        self._closing.callback(server.close)
        self.metrics_port = server.server_port

    def _begin(self, number: int) -> WorkerProcess | None:
        """Start a worker in its place; none once the server is stopping."""
        with self._changing:
            if self._stopping.is_set():
                return None
            self._workers[number] = WorkerProcess(number, self._shares[number])
            return self._workers[number]

    def _hear_all(self) -> list[Any]:
        """What each worker says next, in the order in which they say it.

        Raises:
            StartupError: One of them does not start.
        """
        silent, said = {worker.line: worker for worker in self._workers.values()}, []
        while silent:
            said += [silent.pop(line).receive() for line in cast(list[Connection], wait(list(silent)))]
        return said

    def _keep(self, number: int) -> None:
        """Replace the worker in one place each time that it ends, until the server stops."""
        while True:
            worker = self._workers[number]
            code = worker.wait()
            self._merged.remove(worker)
            worker.close()
            if self._stopping.is_set():
                return
            self._lost.inc()
            log.error("worker lost", worker=number, exit_code=code)
            while not self._replace(number):
                self._stopping.wait(RETRY_SECONDS)

    def _watch(self) -> None:
        """Kill workers that hang: connections that they hold would wait without end, and so would new ones."""
        while not self._stopping.wait(ASK_SECONDS):
            try:
                self._merged.ask_all()
                self._kill_silent()
            except Exception:  # whatever a worker says, the others are watched
                log.exception("workers not asked")

    def _kill_silent(self) -> None:
        for worker in list(self._workers.values()):
            silent_seconds = time.monotonic() - worker.heard
            if worker in self._merged.sources and silent_seconds > SILENT_SECONDS:
                log.error("worker hangs", worker=worker.number, silent_seconds=round(silent_seconds, 1))
                worker.kill()

    def _replace(self, number: int) -> bool:
        """Whether a worker takes calls in a place again, or none is to."""
        try:
            worker = self._begin(number)
            if worker is None:
                return True
            worker.receive()
            worker.open(self.grpc_port)
            worker.receive()
        except StartupError as error:
            self._workers[number].kill()
            if not self._stopping.is_set():
                log.warning("worker not replaced", worker=number, reason=str(error), retry_seconds=RETRY_SECONDS)
            return False
        self._merged.add(worker)
        log.info("worker replaced", worker=number)
        return True

    def _kill_all(self) -> None:
        for worker in self._workers.values():
            worker.kill()


def watch_workers(registry: CollectorRegistry, merged: MergedMetrics, wanted: int) -> Counter:
    """What is known of the workers themselves; gives the counter of those that were lost."""
    Gauge("consort_wanted_workers", "Workers that there should be.", registry=registry).set(wanted)
    running = Gauge("consort_workers", "Workers that take calls.", registry=registry)
    running.set_function(lambda: len(merged.sources))
    return Counter("consort_lost_workers_total", "Workers that ended while the server did not.", registry=registry)
