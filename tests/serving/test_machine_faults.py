"""What the machine does to a server: disks that are full, files that it may not read, clocks that are stepped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from benchmarks.servers import Running
from serving.admin import main as admin
from serving.client import CallError, Client
from serving.labels import read_labels, write_labels
from serving.token import main as make_token
from tests.bundles import StubMember, write_bundle
from tests.conftest import StartServer
from tests.serving.test_process import ROOT, SERVE, serving
from tests.serving.test_rollout import WATCH, add_bundle, refusals, truncate, value, versions
from tests.serving.test_server import BLACK, target, wait_for

DISK, ROOM_BYTES = "256k", 20_000
LARGE = (1, 64, 64)
"""Members for images of this shape have 49 kB each, so that a part of one may fit where the whole does not."""
AS_A_USER = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""Runs a command so that permissions hold for it, which for root they do not."""
DAY_SECONDS = 86_400.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of a quarter of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    unmount = ["umount", "--lazy", str(folder)]
    try:
        subprocess.run(mount, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can be mounted by root alone, and not in every container")
    yield folder
    subprocess.run(unmount, check=True)


def fill(disk: Path, room_bytes: int = 0) -> Path:
    """Leave so much room on a disk, and no more; gives the file that takes the rest."""
    file = disk / ".filler"
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(1024))
    os.truncate(file, file.stat().st_size - room_bytes)
    return file


class TestAFullDisk:
    def test_a_bundle_that_comes_in_part_is_refused_and_goes_live_once_it_is_whole(
        self, tmp_path: Path, disk: Path, start_server: StartServer
    ) -> None:
        """Copied file by file, as `cp` does, until there is room for a part of a member."""
        bundle, place = write_bundle(tmp_path, version=2, shape=LARGE), disk / "stub/2"
        write_bundle(disk, shape=LARGE)
        server = start_server(disk, watch_seconds=WATCH)
        black = np.zeros((1, *LARGE), np.uint8)
        with Client(target(server), timeout_seconds=60) as client:
            place.mkdir()
            for name in ("manifest.json", "member-1.onnx"):
                shutil.copyfile(bundle / name, place / name)
            filler = fill(disk, ROOM_BYTES)
            with pytest.raises(OSError, match="No space left on device"):
                shutil.copyfile(bundle / "member-2.onnx", place / "member-2.onnx")
            assert 0 < (place / "member-2.onnx").stat().st_size <= ROOM_BYTES
            wait_for(lambda: any("stub/2: member-2.onnx has sha256" in reason for _, reason in refusals(client)))
            assert (versions(client), client.classify(black).model_version) == ([1], 1)
            filler.unlink()
            shutil.copyfile(bundle / "member-2.onnx", place / "member-2.onnx")
            wait_for(lambda: versions(client) == [2])
            assert refusals(client) == []

    def test_labels_stay_as_they_were(self, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """And nothing half written is left behind."""
        write_bundle(disk)
        write_labels(disk / "stub", {"stable": 1})
        fill(disk)
        before = sorted((disk / "stub").iterdir())
        assert admin(["label", "stub", "canary", "1", "--models", str(disk)]) == 1
        assert capsys.readouterr().err == "models folder cannot be used: No space left on device\n"
        assert read_labels(disk / "stub") == {"stable": 1}
        assert sorted((disk / "stub").iterdir()) == before

    def test_tokens_stay_as_they_were(self, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = disk / "tokens"
        assert make_token(["first", "--scopes", "classify", "--tokens", str(file)]) == 0
        content = file.read_bytes()
        filler = fill(disk)
        capsys.readouterr()
        assert make_token(["second", "--scopes", "classify", "--tokens", str(file)]) == 1
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", f"{file} cannot be written: No space left on device\n")
        assert file.read_bytes() == content
        assert sorted(disk.iterdir()) == [filler, file]

    def test_a_log_that_lies_on_it_loses_its_lines_and_nothing_else(self, models: Path) -> None:
        """A start that fails still ends with 3; calls are answered, and SIGTERM drains."""
        with serving("--models", str(models)) as (_, event):
            ports = ["--grpc-port", str(event["grpc_port"])]
        command = [*SERVE, "--models", str(models), *ports, "--access-log-share", "1"]
        with Path("/dev/full").open("w") as full:
            refused = subprocess.run([*command, "--threads", "x"], cwd=ROOT, stderr=full, check=False)
            assert refused.returncode == 3
            with subprocess.Popen(command, cwd=ROOT, stderr=full) as process:
                with Client(f"127.0.0.1:{event['grpc_port']}", timeout_seconds=60) as client:
                    wait_for(lambda: answers(client))
                    assert client.classify(BLACK).model_version == 1
                process.terminate()
            assert process.returncode == 0


def answers(client: Client) -> bool:
    """Whether the server is there."""
    try:
        return bool(client.list_models())
    except CallError:
        return False


@contextmanager
def user_server(models: Path, *arguments: str) -> Iterator[tuple[Running, Client]]:
    """A server that watches the folder and that permissions hold for, and a client of it."""
    if AS_A_USER and shutil.which(AS_A_USER[0]) is None:
        pytest.skip("permissions do not hold for root, and there is no setpriv to give its privileges up")
    arguments = ("--models", str(models), "--watch-seconds", str(WATCH), *arguments)
    with serving(*arguments, within=AS_A_USER) as (process, event):
        server = Running(process.pid, f"127.0.0.1:{event['grpc_port']}", event["metrics_port"])
        with Client(server.target, timeout_seconds=60) as client:
            yield server, client


class TestPermissions:
    @pytest.mark.parametrize(("path", "mode"), [("manifest.json", 0), ("member-2.onnx", 0), ("", 0), ("", 0o444)])
    def test_a_bundle_that_may_not_be_read_is_refused_until_it_may(
        self, models: Path, path: str, mode: int
    ) -> None:
        """A file of it, or its folder: forbidden as a whole, or listed and not entered."""
        with user_server(models) as (_, client):
            for version in (1, 2):
                made = write_bundle(models / ".made", name="other", version=version)
            allowed = (made / path).stat().st_mode
            (made / path).chmod(mode)
            (models / ".made/other").rename(models / "other")
            wait_for(lambda: ("other", 1) in served(client))
            wait_for(lambda: list(client.get_model("other").refusals) != [])
            (refusal,) = client.get_model("other").refusals
            assert (refusal.version, "cannot be read: Permission denied" in refusal.reason) == (2, True)
            assert client.classify(BLACK, model="other").model_version == 1
            (models / "other/2" / path).chmod(allowed)
            wait_for(lambda: ("other", 2) in served(client))
            assert list(client.get_model("other").refusals) == []

    @pytest.mark.parametrize("path", ["", "stub"])
    @pytest.mark.parametrize("mode", [0, 0o444])
    def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(
        self, models: Path, path: str, mode: int
    ) -> None:
        """Where removing a model unloads it, forbidding its folder does not; afterwards all goes on."""
        write_bundle(models, name="other")
        with user_server(models, "--unload-removed", "--default-model", "stub") as (server, client):
            (models / path).chmod(mode)
            try:
                wait_for(lambda: value(server, "consort_failed_looks_total") > 0)
                assert served(client) == [("other", 1), ("stub", 1)]
            finally:
                (models / path).chmod(0o755)
            add_bundle(models, 2)
            wait_for(lambda: served(client) == [("other", 1), ("stub", 2)])

    def test_a_folder_that_can_be_no_models_may_be_forbidden(self, models: Path) -> None:
        """As a volume's own lost+found is."""
        (models / "lost+found").mkdir(mode=0)
        with user_server(models) as (server, client):
            add_bundle(models, 2)
            wait_for(lambda: versions(client) == [2])
            assert value(server, "consort_failed_looks_total") == 0

    @pytest.mark.parametrize(("path", "what"), [("stub/1", "stub/1/manifest.json"), ("stub", "models folder")])
    def test_a_start_names_what_it_may_not_read_in_one_line(self, models: Path, path: str, what: str) -> None:
        (models / path).chmod(0)
        command = [*AS_A_USER, *SERVE, "--models", str(models), "--log-level", "error"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        (models / path).chmod(0o755)
        assert (result.returncode, result.stderr.count("\n")) == (3, 1), result.stderr
        assert re.match("BundleRefused: |BundleUnread: ", result.stderr)
        assert what in result.stderr
        assert "cannot be read: Permission denied" in result.stderr


def served(client: Client) -> list[tuple[str, int]]:
    """All models and versions that are served."""
    return [(model.name, model.version) for model in client.list_models()]


class TestClocks:
    @pytest.mark.parametrize("year", [1970, 2100])
    def test_files_of_another_time_are_read_as_any_other(
        self, models: Path, start_server: StartServer, year: int
    ) -> None:
        """Dates are compared for being the same, never for being later."""
        server = start_server(models, watch_seconds=WATCH)
        seconds = (year - 1970) * 365 * DAY_SECONDS

        def date(folder: Path) -> None:
            for path in (*folder.iterdir(), folder):
                os.utime(path, (seconds, seconds))

        with Client(target(server), timeout_seconds=60) as client:
            add_bundle(models, 2, date)
            wait_for(lambda: versions(client) == [2])
            better = write_bundle(models / ".better", [StubMember((0.1, 0.8, 0.1))] * 2, version=2)
            date(better)
            for file in better.iterdir():
                file.replace(models / "stub/2" / file.name)
            wait_for(lambda: client.classify(BLACK).classifications[0].label == "class 1")

    @pytest.mark.parametrize("step_seconds", [-DAY_SECONDS, DAY_SECONDS])
    def test_a_clock_that_is_stepped_changes_nothing_for_callers_or_the_watch(
        self, models: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch, step_seconds: float
    ) -> None:
        """By a day, while the server runs; the caller's own clock is the same, so that it gives each call days."""
        server, now = start_server(models, watch_seconds=WATCH), time.time
        with Client(target(server), timeout_seconds=3 * DAY_SECONDS) as client:
            assert client.classify(BLACK).model_version == 1
            monkeypatch.setattr(time, "time", lambda: now() + step_seconds)
            assert client.classify(BLACK).model_version == 1
            add_bundle(models, 2)
            wait_for(lambda: versions(client) == [2])
            add_bundle(models, 3, truncate)
            wait_for(lambda: [version for version, _ in refusals(client)] == [3])
            assert client.classify(BLACK).model_version == 2
