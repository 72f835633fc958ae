"""The explorer as a web application: routes, limits, and headers that let nothing in from elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from explorer.errors import RequestError
from explorer.limits import RequestLimit
from explorer.questions import Questions
from explorer.replies import call_error, request_error
from explorer.settings import ExplorerSettings
from serving.client import CallError

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}
"""Sent with everything, unless a reply has its own."""
Endpoint = Callable[[Request], Awaitable[Response]]


def build_app(settings: ExplorerSettings) -> Starlette:
    """The application; the connection to the server is closed when it shuts down."""
    questions = Questions(settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        """Give the connection back at the end."""
        yield
        questions.close()

    app = Starlette(
        routes=_routes(questions, settings),
        exception_handlers={RequestError: request_error, CallError: call_error},
        lifespan=lifespan,
    )
    app.add_middleware(Headers)
    return app


def _routes(questions: Questions, settings: ExplorerSettings) -> list[BaseRoute]:
    limit = RequestLimit(settings.requests_per_second)

    def limited(endpoint: Endpoint) -> Endpoint:
        """Counts the request before it is answered."""

        async def answer(request: Request) -> Response:
            """The endpoint's answer, to a client that may still ask."""
            limit.take(request.client.host if request.client else "")
            return await endpoint(request)

        return answer

    asked = [questions.page, questions.models, questions.model, questions.layers, questions.metrics]
    asked += [questions.excited, questions.pictures]
    sent = [questions.classify, questions.batch, questions.activations, questions.gradients, questions.values]
    routes: list[BaseRoute] = [
        *(Route(f"/api/{one.__name__}", limited(one), methods=["GET"]) for one in asked),
        *(Route(f"/api/{one.__name__}", limited(one), methods=["POST"]) for one in sent),
        Route("/report", limited(questions.report)),
        Route("/", _index),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    if settings.examples:
        routes.append(Mount("/examples", StaticFiles(directory=settings.examples)))
    return routes


async def _index(_: Request) -> FileResponse:
    return FileResponse(STATIC / "index.html")


class Headers:
    """Adds `HEADERS` to every reply."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and its reply back with the headers."""

        async def send_with_headers(message: Message) -> None:
            """The same message; its own headers come first."""
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
