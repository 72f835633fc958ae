"""Certificates are asked for, shown, proved, and taken anew when their files change."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme

from serving.channel import Credentials
from serving.client import CallError, Client
from serving.client.__main__ import main
from serving.errors import CredentialsRefused
from serving.security.certificates import CertificateFiles, load_certificate
from serving.security.reload import read_files
from serving.server import Server
from tests.conftest import StartServer
from tests.imaging.test_files import encode, gradient
from tests.serving.security.callers import read_metrics, sample, write_authority, write_pair
from tests.serving.test_process import ROOT, SERVE, health
from tests.serving.test_server import target, wait_for


@dataclass(frozen=True)
class Files:
    """What a server and its callers have on disk."""

    folder: Path
    certificate: Path
    key: Path
    authority: Path
    client_certificate: Path
    client_key: Path
    client_authority: Path


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    clients = trustme.CA()
    for name in ("server", "client"):
        (tmp_path / name).mkdir()
    return Files(
        tmp_path,
        *write_pair(authority, tmp_path / "server"),
        write_authority(authority, tmp_path / "authority.pem"),
        *write_pair(clients, tmp_path / "client", "caller.example"),
        write_authority(clients, tmp_path / "clients.pem"),
    )


def list_models(server: Server, credentials: Credentials) -> int:
    with Client(target(server), 20, credentials) as client:
        return len(client.list_models())


def serial(server: Server, files: Files) -> str:
    """Of the certificate that new gRPC connections are shown."""
    context = ssl.create_default_context(cafile=files.authority)
    with (
        socket.create_connection(("127.0.0.1", server.grpc_port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        shown = secured.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


class TestTls:
    def test_callers_over_tls_are_answered(self, models: Path, files: Files, start_server: StartServer) -> None:
        server = start_server(models, tls_certificate=files.certificate, tls_key=files.key)
        assert list_models(server, Credentials(tls_ca=files.authority)) == 1

    def test_callers_in_the_clear_are_not(self, models: Path, files: Files, start_server: StartServer) -> None:
        server = start_server(models, tls_certificate=files.certificate, tls_key=files.key)
        with pytest.raises(CallError) as error:
            list_models(server, Credentials())
        assert error.value.code == grpc.StatusCode.UNAVAILABLE

    def test_a_client_refuses_a_server_of_another_authority(
        self, models: Path, files: Files, start_server: StartServer
    ) -> None:
        server = start_server(models, tls_certificate=files.certificate, tls_key=files.key)
        with pytest.raises(CallError, match="UNAVAILABLE"):
            list_models(server, Credentials(tls_ca=files.client_authority))

    def test_metrics_speak_tls_as_well(self, models: Path, files: Files, start_server: StartServer) -> None:
        """A caller who connects and stays silent holds up no other."""
        server = start_server(models, tls_certificate=files.certificate, tls_key=files.key)
        with socket.create_connection(("127.0.0.1", server.metrics_port)):
            status, body = read_metrics(server, ssl.create_default_context(cafile=files.authority))
        assert status == 200
        assert "consort_call_seconds" in body

    def test_the_command_of_the_client(
        self, models: Path, files: Files, start_server: StartServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server = start_server(models, tls_certificate=files.certificate, tls_key=files.key)
        image = files.folder / "image.png"
        image.write_bytes(encode(gradient()))
        assert main([str(image), "--target", target(server), "--tls-ca", str(files.authority)]) == 0
        assert "class 0" in capsys.readouterr().out

    def test_the_health_command(
        self, models: Path, files: Files, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a container's health check asks: what it must know stands in the environment."""
        server = start_server(models, tls_certificate=files.certificate, tls_key=files.key)
        assert health(server.grpc_port).returncode == 1
        monkeypatch.setenv("CONSORT_CLIENT_TLS_CA", str(files.authority))
        asked = health(server.grpc_port)
        assert (asked.returncode, asked.stdout) == (0, "SERVING\n")


class TestMutualTls:
    @pytest.fixture
    def server(self, models: Path, files: Files, start_server: StartServer) -> Server:
        return start_server(
            models, tls_certificate=files.certificate, tls_key=files.key, tls_client_ca=files.client_authority
        )

    def test_a_caller_with_a_certificate_is_answered(self, server: Server, files: Files) -> None:
        assert list_models(server, Credentials(files.authority, files.client_certificate, files.client_key)) == 1

    def test_a_caller_without_one_or_with_a_foreign_one_is_not(self, server: Server, files: Files) -> None:
        for credentials in (
            Credentials(files.authority),
            Credentials(files.authority, files.certificate, files.key),
        ):
            with pytest.raises(CallError) as error:
                list_models(server, credentials)
            assert error.value.code == grpc.StatusCode.UNAVAILABLE

    def test_the_metrics_port_asks_for_one_too(self, server: Server, files: Files) -> None:
        context = ssl.create_default_context(cafile=files.authority)
        with pytest.raises(OSError, match=r"certificate required|reset|EOF"):
            read_metrics(server, context)
        context.load_cert_chain(files.client_certificate, files.client_key)
        assert read_metrics(server, context)[0] == 200


class TestReload:
    def test_a_new_pair_is_taken_for_new_connections_and_a_bad_one_is_not(
        self, models: Path, files: Files, authority: trustme.CA, start_server: StartServer
    ) -> None:
        server = start_server(models, tls_certificate=files.certificate, tls_key=files.key)
        context = ssl.create_default_context(cafile=files.authority)

        def reloads(outcome: str) -> Callable[[], bool]:
            def counted() -> bool:
                body = read_metrics(server, context)[1]
                return sample(body, "consort_credential_reloads_total", kind="certificate", outcome=outcome) >= 1

            return counted

        first = serial(server, files)
        with Client(target(server), 20, Credentials(files.authority)) as client:
            client.list_models()
            good = files.certificate.read_bytes()
            files.certificate.write_text("no certificate")
            wait_for(reloads("refused"))
            assert serial(server, files) == first
            files.certificate.write_bytes(good)
            write_pair(authority, files.certificate.parent)
            wait_for(lambda: serial(server, files) != first)
            assert len(client.list_models()) == 1
        wait_for(reloads("loaded"))


class TestABadPair:
    @pytest.mark.parametrize("broken", ["certificate", "key", "client_authority"])
    def test_stops_the_start_in_one_line(self, models: Path, files: Files, broken: str) -> None:
        getattr(files, broken).write_text("nothing of use")
        command = [
            *(*SERVE, "--models", str(models), "--log-level", "error"),
            *("--tls-certificate", str(files.certificate), "--tls-key", str(files.key)),
            *("--tls-client-ca", str(files.client_authority)),
        ]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr.count("\n")) == (3, 1)
        assert result.stderr.startswith("CredentialsRefused: tls_c")
        assert str(getattr(files, broken)) in result.stderr

    def test_that_does_not_belong_together_is_refused(self, files: Files) -> None:
        pair = CertificateFiles(files.certificate, files.client_key, None)
        with pytest.raises(
            CredentialsRefused, match="are no certificate with its private key: KEY_VALUES_MISMATCH"
        ):
            load_certificate(pair, read_files(pair.paths))

    def test_that_is_not_there_is_refused(self, files: Files) -> None:
        with pytest.raises(CredentialsRefused, match=r"nowhere.pem cannot be read: No such file or directory"):
            read_files([files.folder / "nowhere.pem"])

    def test_that_changes_while_it_is_read_is_refused(self, files: Files) -> None:
        pair = CertificateFiles(files.certificate, files.key, None)
        with pytest.raises(CredentialsRefused, match="changed while they were read"):
            load_certificate(pair, (b"what came before", files.key.read_bytes()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tls-certificate", "a"], "tls_certificate and tls_key come together or not at all"),
        (["--tls-client-ca", "a"], "tls_client_ca needs tls_certificate and tls_key"),
    ],
)
def test_half_of_tls_is_refused(flags: list[str], message: str) -> None:
    result = subprocess.run([*SERVE, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert message in result.stderr


@pytest.mark.parametrize("flags", [["--tls-key", "a"], ["--tls-server-name", "a"]])
def test_half_of_tls_is_refused_by_the_client(flags: list[str]) -> None:
    command = [sys.executable, "-m", "serving.client", "x.png", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "tls_" in result.stderr
