"""Spans of calls, by OpenTelemetry over OTLP: the extra `tracing`.

A call's trace continues its caller's, by W3C Trace Context (`traceparent`, `tracestate`). Below the span of the
call lie those of decode, queue and inference. They are made when the call has ended, from what was measured
anyhow, so that nothing is done while it runs. Sampling, headers, certificates and the name of the service are
those of OpenTelemetry's own variables (OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME...).
"""

from __future__ import annotations

import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import grpc

from serving.errors import TracingMissing
from serving.observation import CallRecord

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

SERVICE_NAME = "consort"
"""Unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say another."""
OUR_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
"""What makes a server's span an error, by OpenTelemetry's conventions for gRPC; others are the caller's fault."""
CLOSE_SECONDS = 2.0
"""How long the last spans have to leave when the server stops."""


def open_tracing(endpoint: str | None) -> list[Tracing]:
    """Tracing to an OTLP collector; none where no endpoint is set.

    Raises:
        TracingMissing: The extra is not installed.
    """
    if endpoint is None:
        return []
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise TracingMissing(
            f"trace_endpoint {endpoint} is set, but {error.name} is not installed; it comes with Consort's "
            "extra 'tracing': pip install '.[tracing]' in the checkout"
        ) from error
    named = Resource({"service.name": SERVICE_NAME}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=Resource.create().merge(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return [Tracing(provider)]


class Tracing:
    """Makes the spans of calls that have ended."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace  # noqa: PLC0415  the extra may be missing
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = provider
        self._trace = trace
        self._tracer = provider.get_tracer("consort", version("consort"))
        self._propagator = TraceContextTextMapPropagator()

    def end(self, record: CallRecord) -> None:
        """Make a call's spans, where its caller, or the sampler, wants them."""
        clock = time.time_ns() - int(time.perf_counter() * 1e9)
        parent = self._propagator.extract(record.trace_context)
        service, _, method = record.method.lstrip("/").partition("/")
        span = self._tracer.start_span(
            record.method.lstrip("/"),
            parent,
            self._trace.SpanKind.SERVER,
            {
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "rpc.grpc.status_code": record.code.value[0],
                "consort.request_id": record.request_id,
            },
            start_time=clock + int(record.began * 1e9),
        )
        record.trace_id = f"{span.get_span_context().trace_id:032x}"
        if span.is_recording():
            if record.model is not None:
                span.set_attribute("consort.model", record.model)
                span.set_attribute("consort.version", record.version or 0)
                span.set_attribute("consort.images", record.images or 0)
            if record.code in OUR_FAULTS:
                span.set_status(self._trace.StatusCode.ERROR, record.error)
            self._add_stages(record, self._trace.set_span_in_context(span, parent), clock)
        span.end(clock + int(record.ended * 1e9))

    def close(self) -> None:
        """Send what is left, as far as there is time."""
        # The library waits for a collector that does not answer, however long it was told to.
        last = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)

    def _add_stages(self, record: CallRecord, parent: Context, clock: int) -> None:
        start = record.asked
        for stage, seconds in record.stages.items():
            span = self._tracer.start_span(stage, parent, start_time=clock + int(start * 1e9))
            start += seconds
            span.end(clock + int(start * 1e9))
