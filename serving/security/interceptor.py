"""Asks every call for its token, before its message is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import grpc

from serving.context import Context, Handler
from serving.errors import Forbidden, RequestError, Unauthenticated
from serving.metrics.callers import CallerMetrics
from serving.observation import CallWatch
from serving.security.scopes import scope_of
from serving.security.tokens import Tokens
from serving.statuses import abort, status_code, status_of

Metadata = Iterable[tuple[str, str | bytes]] | None


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Stands before all others; whether a method exists is not said to whom it does not let pass."""

    def __init__(self, tokens: Callable[[], Tokens], metrics: CallerMetrics, watch: CallWatch) -> None:
        """Ask for tokens.

        Args:
            tokens: Those that are taken as of now.
            metrics: Where refusals are counted.
            watch: Is shown the calls that are refused.
        """
        self._tokens = tokens
        self._watch = watch
        self._refused = {
            kind: metrics.refused.labels("grpc", status_code(kind).name) for kind in (Unauthenticated, Forbidden)
        }

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Let a call pass, or answer it with the reason why not."""
        try:
            self._require(handler_call_details.method, handler_call_details.invocation_metadata)
        except (Unauthenticated, Forbidden) as error:
            self._refused[type(error)].inc()
            return self._refusal(handler_call_details.method, error)
        return await continuation(handler_call_details)

    def lets_pass(self, method: str, metadata: Metadata) -> bool:
        """Whether a call with such metadata would pass."""
        try:
            self._require(method, metadata)
        except (Unauthenticated, Forbidden):
            return False
        return True

    def _refusal(self, method: str, error: RequestError) -> Handler:
        """Ends a call of any kind: as a stream of requests, none of which is waited for."""
        status, reason = status_of(error), type(error).__name__

        async def refuse(_: AsyncIterator[bytes], context: Context) -> None:
            """Say why."""
            self._watch.note_refusal(method, context, status.code, reason)
            await abort(context, status)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _require(self, method: str, metadata: Metadata) -> None:
        if (scope := scope_of(method)) is not None:
            self._tokens().require(_authorization(metadata), scope)


def _authorization(metadata: Metadata) -> str | None:
    """The one `authorization` of a call; several count as none."""
    found = [value for key, value in metadata or () if key == "authorization"]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else None
