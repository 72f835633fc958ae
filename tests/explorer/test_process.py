"""The explorer as a process: settings, how it starts, refuses to start, and stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from explorer.__main__ import main
from explorer.errors import SettingsError
from explorer.settings import ExplorerSettings, read_settings

ROOT = Path(__file__).parents[2]
EXPLORE = [sys.executable, "-m", "explorer"]


def test_the_page_is_on_8080_and_asks_the_servers_ports() -> None:
    settings = read_settings([])
    assert (settings.port, settings.target) == (8080, "localhost:8001")
    assert settings.metrics_url == "http://localhost:8002/metrics"


def test_flags_come_before_variables_and_variables_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "explorer.toml").write_text("port = 1\nmax_call_images = 1\ntimeout_seconds = 1\n")
    monkeypatch.setenv("CONSORT_EXPLORER_MAX_CALL_IMAGES", "2")
    monkeypatch.setenv("CONSORT_EXPLORER_PORT", "2")
    settings = read_settings(["--config", str(tmp_path / "explorer.toml"), "--port", "3"])
    assert (settings.port, settings.max_call_images, settings.timeout_seconds) == (3, 2, 1)


@pytest.mark.parametrize(
    ("content", "message"), [("port = ", "is no TOML"), ("prot = 1", "prot: Extra inputs are not permitted")]
)
def test_a_wrong_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(SettingsError) as error:
        read_settings(["--config", str(tmp_path / "bad.toml")])
    assert message in str(error.value)


def test_none_is_none_from_wherever_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings(["--examples", "none"]).examples is None
    (tmp_path / "explorer.toml").write_text('examples = "none"\n')
    assert read_settings(["--config", str(tmp_path / "explorer.toml")]).examples is None
    monkeypatch.setenv("CONSORT_EXPLORER_EXAMPLES", "none")
    assert read_settings([]).examples is None


def test_every_setting_is_documented() -> None:
    assert [name for name, field in ExplorerSettings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "x"], "SettingsError: port: Input should be a valid integer"),
        (["--no-such-flag"], "SettingsError: "),
        (["--metrics-url", "file:///etc/passwd"], "SettingsError: metrics_url: String should match pattern"),
        (["--metrics-url", "http://["], "SettingsError: metrics_url: "),
        (["--metrics-url", "http://localhost:port/"], "SettingsError: metrics_url: "),
        (["--models", "/nowhere"], "FolderMissing: models: /nowhere is no folder"),
        (["--models", __file__], f"FolderMissing: models: {__file__} is no folder"),
        (["--examples", __file__], f"FolderMissing: examples: {__file__} is no folder"),
        (["--run", "/nowhere"], "FolderMissing: run: /nowhere/report.html is not there"),
        (["--config", "/nowhere.toml"], "SettingsError: config file /nowhere.toml cannot be read: No such file"),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 3
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1


def test_a_port_in_use_stops_the_start_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [*EXPLORE, "--port", str(port)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (3, 1)
    assert result.stderr.startswith(f"PortTaken: 127.0.0.1:{port} cannot be listened on")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    with subprocess.Popen([*EXPLORE, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "asking the server at localhost:8001" in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == 0
