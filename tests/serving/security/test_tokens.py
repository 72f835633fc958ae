"""Without the right token nothing is answered, and nothing is learnt."""

from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from benchmarks.fuzzing.peers import Peer
from protos.consort.v1 import classifier_pb2
from serving.channel import Credentials
from serving.client import CallError, Client
from serving.errors import CredentialsRefused, Forbidden, Unauthenticated
from serving.security.reload import ReloadedFiles
from serving.security.scopes import OPEN_SERVICE, Scope, scope_of
from serving.security.tokens import Tokens, parse_tokens
from serving.server import SERVICE, Server
from serving.token import add_token, main
from tests.conftest import StartServer
from tests.serving.security.callers import code_of, read_metrics, sample
from tests.serving.test_server import target, wait_for

BLACK = np.zeros((1, 1, 4, 4), np.uint8)
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
WRONG = "consort_" + "x" * 43
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def tokens(file: Path) -> dict[str, str]:
    """A token of each scope."""
    return {scope: add_token(f"a-{scope}", scope, file) for scope in Scope}


@pytest.fixture
def server(models: Path, file: Path, tokens: dict[str, str], start_server: StartServer) -> Server:
    """A server that asks for tokens, and tells those who have one what it has and lets them control it."""
    assert len(tokens) == len(Scope)
    return start_server(models, tokens=file, reflection=True, model_control=True)


def methods_of(server: Server, token: str) -> list[tuple[str, bool]]:
    """Every method that a server has, and whether it takes or gives a stream, as its own reflection tells it."""
    with grpc.insecure_channel(target(server)) as channel:
        stamped = grpc.intercept_channel(channel, _Stamp(token))
        database = ProtoReflectionDescriptorDatabase(stamped)
        pool = DescriptorPool(database)
        services = [pool.FindServiceByName(name) for name in database.get_services()]
        return [
            (f"/{service.full_name}/{method.name}", method.client_streaming or method.server_streaming)
            for service in services
            for method in service.methods
        ]


class _Stamp(grpc.StreamStreamClientInterceptor):
    """Puts a token on streams."""

    def __init__(self, token: str) -> None:
        self._metadata = Credentials(token=token).metadata

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """As gRPC calls it."""
        return continuation(details._replace(metadata=self._metadata), requests)


class TestEveryMethod:
    def test_of_the_server_refuses_strangers(self, server: Server, tokens: dict[str, str]) -> None:
        """Without a token, with a wrong one and with one too few scopes; but for health checks."""
        methods = methods_of(server, tokens[Scope.CLASSIFY])
        assert len(methods) >= 14
        for method, stream in methods:
            if method.startswith(f"/{OPEN_SERVICE}/"):
                continue
            needed = scope_of(method)
            others = [token for scope, token in tokens.items() if scope != needed]
            found = [
                code_of(server, method, stream=stream),
                code_of(server, method, Credentials(token=WRONG), stream=stream),
                *(code_of(server, method, Credentials(token=token), stream=stream) for token in others),
            ]
            assert found == [UNAUTHENTICATED, UNAUTHENTICATED, DENIED, DENIED], method

    def test_of_the_server_has_a_scope_that_lets_it_pass(self, server: Server, tokens: dict[str, str]) -> None:
        for method, stream in methods_of(server, tokens[Scope.CLASSIFY]):
            token = tokens.get(scope_of(method) or "")
            code = code_of(server, method, Credentials(token=token), stream=stream)
            assert code not in (UNAUTHENTICATED, DENIED), method

    def test_that_changes_what_is_served_needs_admin(self, server: Server, tokens: dict[str, str]) -> None:
        for method in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
            name = f"/inference.GRPCInferenceService/{method}"
            assert scope_of(name) == Scope.ADMIN
            assert code_of(server, name, Credentials(token=tokens[Scope.CLASSIFY])) == DENIED

    @pytest.mark.parametrize("method", [f"/{SERVICE}/Nothing", "/nowhere.Service/Nothing", "/x", "/"])
    def test_that_is_unknown_is_refused_like_any_other(
        self, server: Server, tokens: dict[str, str], method: str
    ) -> None:
        """Only who may do everything learns that it is not there."""
        found = [code_of(server, method, Credentials(token=token)) for token in (None, tokens[Scope.CLASSIFY])]
        assert found == [UNAUTHENTICATED, DENIED]
        assert code_of(server, method, Credentials(token=tokens[Scope.ADMIN])) == grpc.StatusCode.UNIMPLEMENTED


def test_a_token_with_the_scope_is_answered(server: Server, tokens: dict[str, str]) -> None:
    with Client(target(server), credentials=Credentials(token=tokens[Scope.CLASSIFY])) as client:
        assert client.classify(BLACK).classifications[0].label == "class 0"


def test_a_message_is_not_read_before_the_token(server: Server) -> None:
    """Bytes that are no message get the same answer as any other, not INVALID_ARGUMENT."""
    assert code_of(server, f"/{SERVICE}/Classify", message=b"\xff" * 100) == UNAUTHENTICATED


def test_a_stranger_does_not_learn_that_there_is_no_place(
    models: Path, file: Path, tokens: dict[str, str], start_server: StartServer
) -> None:
    server = start_server(models, tokens=file, max_concurrent_calls=1)
    classify, method = Credentials(token=tokens[Scope.CLASSIFY]), f"/{SERVICE}/Classify"
    assert code_of(server, method) == UNAUTHENTICATED
    with Peer(target(server)) as peer:

        def is_full() -> bool:
            """Hold the place; whoever asks may have had it at that moment."""
            peer.begin(method, (("authorization", f"Bearer {tokens[Scope.CLASSIFY]}"),))
            return code_of(server, method, classify) == grpc.StatusCode.RESOURCE_EXHAUSTED

        wait_for(is_full)
        assert code_of(server, method) == UNAUTHENTICATED
        assert code_of(server, method, Credentials(token=tokens[Scope.METRICS])) == DENIED


@pytest.mark.parametrize(
    "values",
    [
        ("",),
        ("Bearer",),
        ("Bearer ",),
        ("{token}",),
        ("Basic {token}",),
        ("Bearer {token}x",),
        ("Bearer {token}",) * 2,
    ],
)
def test_what_is_not_one_bearer_token_is_refused(
    server: Server, tokens: dict[str, str], values: tuple[str, ...]
) -> None:
    metadata = tuple(("authorization", value.format(token=tokens[Scope.CLASSIFY])) for value in values)
    assert code_of(server, f"/{SERVICE}/ListModels", metadata=metadata) == UNAUTHENTICATED


def test_health_needs_no_token(server: Server) -> None:
    with grpc.insecure_channel(target(server)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=60)  # type: ignore[attr-defined]  # untyped
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_is_off_unless_asked_for(
    models: Path, file: Path, tokens: dict[str, str], start_server: StartServer
) -> None:
    """As every method that is not there, whose being there is told to the strictest scope alone."""
    admin = Credentials(token=tokens[Scope.ADMIN])
    classify = Credentials(token=tokens[Scope.CLASSIFY])
    server = start_server(models, tokens=file)
    assert code_of(server, REFLECTION, admin, stream=True) == grpc.StatusCode.UNIMPLEMENTED
    assert code_of(server, REFLECTION, classify, stream=True) == DENIED


def test_the_metrics_port_needs_the_scope_metrics(server: Server, tokens: dict[str, str]) -> None:
    before = sample(
        read_metrics(server, token=tokens[Scope.METRICS])[1],
        "consort_refused_callers_total",
        port="metrics",
        reason="401",
    )
    statuses = [read_metrics(server, token=token)[0] for token in (None, "x", tokens[Scope.ADMIN])]
    assert statuses == [401, 401, 403]
    status, body = read_metrics(server, token=tokens[Scope.METRICS])
    assert status == 200
    assert sample(body, "consort_refused_callers_total", port="metrics", reason="401") == before + 2


def test_refusals_are_counted(server: Server, tokens: dict[str, str]) -> None:
    def counted(reason: str) -> float:
        body = read_metrics(server, token=tokens[Scope.METRICS])[1]
        return sample(body, "consort_refused_callers_total", port="grpc", reason=reason)

    code_of(server, f"/{SERVICE}/ListModels")
    code_of(server, f"/{SERVICE}/ListModels", Credentials(token=tokens[Scope.METRICS]))
    assert (counted("UNAUTHENTICATED"), counted("PERMISSION_DENIED")) == (1, 1)


def test_the_file_is_read_again_when_it_changes(server: Server, file: Path, tokens: dict[str, str]) -> None:
    """A new token comes in, a broken file changes nothing, and a token that is gone is taken no more."""
    list_models = f"/{SERVICE}/ListModels"

    def code(token: str) -> grpc.StatusCode:
        return code_of(server, list_models, Credentials(token=token))

    def reloads(outcome: str) -> float:
        status, body = read_metrics(server, token=tokens[Scope.METRICS])
        assert status == 200
        return sample(body, "consort_credential_reloads_total", kind="tokens", outcome=outcome)

    added = add_token("new", "classify", file)
    wait_for(lambda: code(added) == grpc.StatusCode.OK)
    good = file.read_text()
    file.write_text("nonsense")
    wait_for(lambda: reloads("refused") == 1)
    assert code(added) == grpc.StatusCode.OK
    file.write_text("".join(line for line in good.splitlines(keepends=True) if not line.startswith("new ")))
    wait_for(lambda: reloads("loaded") == 2)
    assert (code(added), code(tokens[Scope.CLASSIFY])) == (UNAUTHENTICATED, grpc.StatusCode.OK)


def test_a_look_at_the_file_that_fails_is_not_the_last(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that is taken back later must be one."""

    def code(token: str) -> grpc.StatusCode:
        return code_of(server, f"/{SERVICE}/ListModels", Credentials(token=token))

    looks: list[object] = []

    def fail(files: object) -> None:
        looks.append(files)
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(ReloadedFiles, "_read", fail)
        wait_for(lambda: len(looks) > 1)
    added = add_token("new", "classify", file)
    wait_for(lambda: code(added) == grpc.StatusCode.OK)


class TestTheFile:
    def test_holds_hashes_alone(self, file: Path, tokens: dict[str, str]) -> None:
        content = file.read_text()
        for scope, token in tokens.items():
            assert token not in content
            assert f"a-{scope} {scope} {hashlib.sha256(token.encode()).hexdigest()}\n" in content

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "has no token, so nobody could call"),
            ("# nothing\n\n", "has no token"),
            ("a classify", "line 1 is no name, scopes and SHA-256"),
            (f"a classify {'0' * 63}", "line 1 is no name"),
            (
                f"\na everything {'0' * 64}",
                "line 2: 'everything' is not a valid Scope; scopes are classify, admin, metrics",
            ),
            (f"a admin {'0' * 64}\na admin {'1' * 64}", "has a name twice"),
            (f"a admin {'0' * 64}\nb admin {'0' * 64}", "has a hash twice"),
            (f"a admin {hashlib.sha256(b'').hexdigest()}", "line 1 has the hash of no token"),
        ],
    )
    def test_that_is_wrong_is_explained(self, file: Path, content: str, message: str) -> None:
        with pytest.raises(CredentialsRefused) as error:
            parse_tokens(content.encode(), file)
        assert message in str(error.value)

    def test_that_is_no_text_is_refused(self, file: Path) -> None:
        with pytest.raises(CredentialsRefused, match="is no UTF-8 text"):
            parse_tokens(b"\xff", file)

    def test_decides_what_a_token_may(self, file: Path, tokens: dict[str, str]) -> None:
        known = Tokens(parse_tokens(file.read_bytes(), file))
        known.require(f"bearer {tokens['admin']}", Scope.ADMIN)
        with pytest.raises(Forbidden, match="needs the scope metrics"):
            known.require(f"Bearer {tokens['admin']}", Scope.METRICS)
        for authorization in (None, "", "Bearer \N{SNOWMAN}", "Bearer \udc80"):
            with pytest.raises(Unauthenticated, match="a valid token is needed"):
                known.require(authorization, Scope.ADMIN)

    @pytest.mark.parametrize("which", ["none", "wrong", "first", "last"])
    def test_is_compared_as_a_whole_whatever_comes(
        self, file: Path, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch, which: str
    ) -> None:
        """Each line once, by what takes the same time wherever two differ: how long it takes tells nothing."""
        known, compared = Tokens(parse_tokens(file.read_bytes(), file)), []
        compare = hmac.compare_digest

        def note(one: bytes, other: bytes) -> bool:
            compared.append(one)
            return compare(one, other)

        monkeypatch.setattr(hmac, "compare_digest", note)
        first, *_, last = tokens.values()
        shown = {"none": None, "wrong": f"Bearer {WRONG}", "first": f"Bearer {first}", "last": f"Bearer {last}"}
        with suppress(Unauthenticated, Forbidden):
            known.require(shown[which], Scope.CLASSIFY)
        assert compared == [hashlib.sha256(token.encode()).digest() for token in tokens.values()]


class TestTheCommand:
    def test_prints_a_token_once_and_keeps_its_hash(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["ci", "--scopes", "classify,metrics", "--tokens", str(file)]) == 0
        token = capsys.readouterr().out.strip()
        (entry,) = parse_tokens(file.read_bytes(), file)
        assert (entry.name, entry.scopes) == ("ci", frozenset({Scope.CLASSIFY, Scope.METRICS}))
        assert entry.digest == hashlib.sha256(token.encode()).digest()

    @pytest.mark.parametrize(
        ("name", "scopes", "message"),
        [
            ("a-admin", "admin", "has a name twice"),
            ("other", "root", "--scopes: 'root' is not a valid Scope"),
            ("two words", "admin", "is not of letters"),
        ],
    )
    def test_changes_nothing_where_it_cannot(
        self,
        file: Path,
        tokens: dict[str, str],
        name: str,
        scopes: str,
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        before = file.read_bytes()
        assert main([name, "--scopes", scopes, "--tokens", str(file)]) == 1
        assert message in capsys.readouterr().err
        assert file.read_bytes() == before


def test_the_client_says_why_it_was_refused(server: Server) -> None:
    with Client(target(server)) as client, pytest.raises(CallError) as error:
        client.list_models()
    assert error.value.code == UNAUTHENTICATED
    assert error.value.message == "a valid token is needed, as authorization: Bearer TOKEN"


def test_a_large_message_without_a_token_is_not_waited_for(server: Server) -> None:
    """A message beyond the limit would be RESOURCE_EXHAUSTED if it were read."""
    message = classifier_pb2.ClassifyRequest(model_name="x" * 40_000_000).SerializeToString()
    assert code_of(server, f"/{SERVICE}/Classify", message=message) == UNAUTHENTICATED
