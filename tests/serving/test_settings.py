"""Flags over environment over file over defaults; wrong values are named, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.errors import SettingsError
from serving.settings import ServerSettings, read_settings, unknown_variables


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file of settings."""
    (tmp_path / "consort.toml").write_text("grpc_port = 1000\nmetrics_port = 1001\nthreads = 3\n")
    return tmp_path / "consort.toml"


def test_the_ports_are_those_that_inference_clients_expect() -> None:
    settings = read_settings([])
    assert (settings.grpc_port, settings.metrics_port, settings.provider) == (8001, 8002, "cpu")


def test_precedence(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSORT_METRICS_PORT", "2001")
    monkeypatch.setenv("CONSORT_GRPC_PORT", "2000")
    settings = read_settings(["--config", str(config), "--grpc-port", "3000"])
    assert (settings.grpc_port, settings.metrics_port, settings.threads) == (3000, 2001, 3)


@pytest.mark.parametrize(
    ("flags", "versions"), [(["--pinned-versions", "{}"], {}), (["--pinned-versions", '{"a": [1]}'], {"a": (1,)})]
)
def test_a_table_takes_the_place_of_another_whole(
    config: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], versions: dict[str, tuple[int, ...]]
) -> None:
    """A pin that a file or the environment names could not be taken back otherwise."""
    config.write_text("[pinned_versions]\nc = [3]\n")
    assert read_settings(["--config", str(config)]).pinned_versions == {"c": (3,)}
    monkeypatch.setenv("CONSORT_PINNED_VERSIONS", '{"b": [2]}')
    assert read_settings(["--config", str(config)]).pinned_versions == {"b": (2,)}
    assert read_settings(["--config", str(config), *flags]).pinned_versions == versions


def test_an_empty_variable_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As compose files write one that is not set."""
    monkeypatch.setenv("CONSORT_DEFAULT_MODEL", "")
    monkeypatch.setenv("CONSORT_THREADS", "")
    settings = read_settings([])
    assert (settings.default_model, settings.threads) == (None, None)


def test_the_environment_can_name_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSORT_CONFIG", str(config))
    assert read_settings([]).grpc_port == 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grpc-port", "99999"], "grpc_port: Input should be less than or equal to 65535, got '99999'"),
        (["--provider", "tpu"], "tpu"),
        (["--prot", "1"], "prot"),
        (["--max-call-images", "10", "--max-queue-images", "5"], "max_call_images 10 exceeds max_queue_images 5"),
        (["--pinned-versions", '{"mnist": []}'], "pinned_versions names no version of mnist"),
        (
            ["--pinned-versions", '{"mnist": [0]}'],
            "pinned_versions.mnist.0: Input should be greater than or equal",
        ),
        (["--config", "/nowhere.toml"], "config file /nowhere.toml cannot be read: No such file"),
    ],
)
def test_wrong_flags_are_explained(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        read_settings(arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("port = 1", "port: Extra inputs are not permitted"),
        ("grpc_port = ", "is no TOML"),
        ("grpc_port = 'x'\nthreads = 0", "threads: Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(SettingsError) as error:
        read_settings(["--config", str(tmp_path / "bad.toml")])
    assert message in str(error.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"grpc_port: .*threads: "):
        read_settings(["--grpc-port", "x", "--threads", "0"])


def test_mistyped_variables_are_found() -> None:
    environment = {
        "CONSORT_GRPC_PORT": "1",
        "CONSORT_GRPCPORT": "1",
        "CONSORT_DATA": "x",
        "CONSORT_CLIENT_TARGET": "x",
        "HOME": "/",
    }
    assert unknown_variables(environment) == ["CONSORT_GRPCPORT"]


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ServerSettings().threads = 5  # type: ignore[misc]  # which is the point


def test_every_setting_is_documented() -> None:
    undocumented = [name for name, field in ServerSettings.model_fields.items() if not field.description]
    assert undocumented == []


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        read_settings(["--help"])
    printed = capsys.readouterr().out
    for name in ServerSettings.model_fields:
        assert "--" + name.replace("_", "-") in printed
