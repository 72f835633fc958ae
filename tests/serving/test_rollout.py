"""Models come and go while a real server answers: by its folder, by labels, by settings."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.servers import Running
from benchmarks.swaps import Life, Reply, is_right, swap_under_load, tally, write_version
from protos.consort.v1 import classifier_pb2_grpc
from protos.open_inference.v2 import grpc_service_pb2 as oip
from protos.open_inference.v2 import grpc_service_pb2_grpc
from serving import models
from serving.client import CallError, Client
from serving.ensemble import Ensemble, Pixels
from serving.errors import BundleRefused
from serving.inference import InferenceThreads
from serving.labels import write_labels
from serving.server import Server
from serving.settings import Provider
from serving.verdict import Floats
from tests.bundles import StubMember, stub_graph, write_bundle
from tests.conftest import StartServer, run_server
from tests.serving.test_ensemble import change_manifest, replace_member
from tests.serving.test_open_inference import raw as inference
from tests.serving.test_server import BLACK, Gate, raw, scrape, target, wait_for

WATCH = 0.05
"""Seconds between two looks at the folder."""
Watched = tuple[Server, Client]
Connect = Callable[..., Watched]


@pytest.fixture
def watched(tmp_path: Path, start_server: StartServer) -> Iterator[Connect]:
    """Starts a server that watches the folder, and connects to it."""
    clients = []

    def connect(**settings: Any) -> Watched:
        server = start_server(tmp_path, **{"watch_seconds": WATCH, **settings})
        clients.append(Client(target(server)))
        return server, clients[-1]

    yield connect
    for client in clients:
        client.close()


def add_bundle(
    models: Path, version: int, damage: Callable[[Path], None] = lambda _: None, name: str = "stub", **more: Any
) -> Path:
    """Write a bundle elsewhere, maybe damage it, and put it into the watched folder in one step."""
    made = write_bundle(models / ".made", version=version, name=name, **more)
    damage(made)
    (models / name).mkdir(exist_ok=True)
    return made.rename(models / name / str(version))


def versions(client: Client) -> list[int]:
    """All that are served, in order."""
    return [model.version for model in client.list_models()]


def value(server: Server | Running, metric: str, **labels: str) -> float:
    """A sample, 0 if there is none."""
    return scrape(server).get((metric, frozenset(labels.items())), 0.0)


def refusals(client: Client) -> list[tuple[int, str]]:
    """What is refused now, by version."""
    return [(one.version, one.reason) for one in client.get_model("stub").refusals]


def truncate(folder: Path) -> None:
    """Cut off a member's end."""
    file = folder / "member-2.onnx"
    file.write_bytes(file.read_bytes()[:-10])


def falsify(folder: Path) -> None:
    """State another checksum."""
    change_manifest(folder, lambda manifest: manifest["members"][0].update(sha256="0" * 64))


def break_schema(folder: Path) -> None:
    """State a format that nobody knows."""
    change_manifest(folder, lambda manifest: manifest.update(format_version=9))


def answer_otherwise(folder: Path) -> None:
    """Exchange a member, with a fitting checksum."""
    replace_member(folder, stub_graph(StubMember((0.6, 0.3, 0.1)), (1, 4, 4)))


def take_weights_from_elsewhere(folder: Path) -> None:
    """Keep a member's weights in a file outside the bundle, with a fitting checksum."""
    graph = stub_graph(StubMember((0.7, 0.2, 0.1)), (1, 4, 4))
    weights = graph.graph.initializer[0]
    (folder.parents[1] / "weights").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../weights")
    replace_member(folder, graph)


def take_everything_away(folder: Path) -> None:
    """Leave an empty folder."""
    for file in folder.iterdir():
        file.unlink()


BAD = {
    "truncated": (truncate, "stub/2: member-2.onnx has sha256"),
    "checksum": (falsify, "stub/2: member-1.onnx has sha256"),
    "schema": (break_schema, "stub/2/manifest.json does not follow the schema: format_version"),
    "outputs": (answer_otherwise, "stub/2: self-check failed: member-1.onnx is off by"),
    "elsewhere": (take_weights_from_elsewhere, "stub/2: member-1.onnx cannot be loaded"),
    "empty": (take_everything_away, "stub/2/manifest.json cannot be read: No such file"),
}


class TestVersions:
    def test_a_new_version_takes_over_and_the_old_one_is_unloaded(self, tmp_path: Path, watched: Connect) -> None:
        """Its series go with it: a scrape names only what is loaded."""
        write_bundle(tmp_path)
        server, client = watched()
        assert client.classify(BLACK).model_version == 1
        add_bundle(tmp_path, 2, members=[StubMember((0.1, 0.8, 0.1))])
        wait_for(lambda: versions(client) == [2])
        found = client.classify(BLACK)
        assert (found.model_version, found.classifications[0].label) == (2, "class 1")
        wait_for(lambda: value(server, "consort_model_unloads_total", model="stub") == 1)
        assert value(server, "consort_model_loads_total", model="stub") == 2
        named = {dict(labels)["version"] for _, labels in scrape(server) if "version" in dict(labels)}
        assert named == {"2"}

    def test_memory_of_an_old_version_is_given_back_at_once(
        self, tmp_path: Path, watched: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the garbage collector, which may not come for long: its sessions hold most of the memory."""
        alive, load = weakref.WeakSet[Ensemble](), Ensemble.__init__

        def note(ensemble: Ensemble, folder: Path, provider: Provider) -> None:
            load(ensemble, folder, provider)
            alive.add(ensemble)

        monkeypatch.setattr(Ensemble, "__init__", note)
        write_bundle(tmp_path)
        server, client = watched(model_control=True)
        gc.disable()
        try:
            client.classify(BLACK)
            add_bundle(tmp_path, 2)
            wait_for(lambda: value(server, "consort_model_unloads_total", model="stub") == 1)
            wait_for(lambda: [ensemble.manifest.version for ensemble in alive] == [2])
            with grpc.insecure_channel(target(server)) as channel:
                control = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
                control.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="stub"), timeout=60)
            wait_for(lambda: not alive)
        finally:
            gc.enable()

    def test_a_call_is_answered_by_the_version_that_it_began_on(
        self, tmp_path: Path, watched: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is held back while its version is replaced, which is unloaded only after it."""
        write_bundle(tmp_path)
        server, client = watched(threads=4)  # two are held
        gate, run = Gate(), Ensemble.run_member
        held = gate.hold(run)

        def hold_the_first(ensemble: Ensemble, member: int, pixels: Pixels) -> Floats:
            return (held if ensemble.manifest.version == 1 else run)(ensemble, member, pixels)

        monkeypatch.setattr(Ensemble, "run_member", hold_the_first)
        with grpc.insecure_channel(target(server)) as channel:
            running = classifier_pb2_grpc.ClassifierStub(channel).Classify.future(raw(), timeout=60)
            gate.wait_until_held()
            add_bundle(tmp_path, 2)
            wait_for(lambda: versions(client) == [2])
            assert client.classify(BLACK).model_version == 2
            assert value(server, "consort_model_unloads_total", model="stub") == 0
            gate.open()
            assert running.result().model_version == 1
        wait_for(lambda: value(server, "consort_model_unloads_total", model="stub") == 1)

    def test_the_latest_so_many(self, tmp_path: Path, watched: Connect) -> None:
        for version in (1, 2, 3):
            write_bundle(tmp_path, version=version)
        _, client = watched(latest_versions=2)
        assert versions(client) == [2, 3]
        add_bundle(tmp_path, 4)
        wait_for(lambda: versions(client) == [3, 4])

    def test_versions_that_are_pinned_and_no_others(self, tmp_path: Path, watched: Connect) -> None:
        for version in (1, 2, 3):
            write_bundle(tmp_path, version=version)
        _, client = watched(pinned_versions={"stub": (1, 2)})
        assert versions(client) == [1, 2]
        with pytest.raises(CallError, match="NOT_FOUND: model 'stub' has no version 3; served are 1, 2"):
            client.classify(BLACK, version=3)

    def test_a_pinned_version_that_is_not_there_stops_the_start(self, tmp_path: Path, watched: Connect) -> None:
        write_bundle(tmp_path)
        with pytest.raises(BundleRefused, match="stub/7 is pinned, but not in the models folder"):
            watched(pinned_versions={"stub": (1, 7)})

    def test_removing_the_latest_version_goes_back_to_the_one_before(
        self, tmp_path: Path, watched: Connect
    ) -> None:
        for version in (1, 2):
            write_bundle(tmp_path, version=version)
        _, client = watched()
        shutil.rmtree(tmp_path / "stub/2")
        wait_for(lambda: versions(client) == [1])
        assert client.classify(BLACK).model_version == 1

    def test_the_last_version_is_served_on_when_it_is_removed(self, tmp_path: Path, watched: Connect) -> None:
        write_bundle(tmp_path)
        server, client = watched()
        shutil.rmtree(tmp_path / "stub")
        wait_for(lambda: value(server, "consort_kept_models_total", model="stub") == 1)
        assert client.classify(BLACK).model_version == 1
        add_bundle(tmp_path, 2)
        wait_for(lambda: versions(client) == [2])

    def test_the_last_version_is_unloaded_where_the_settings_say_so(
        self, tmp_path: Path, watched: Connect
    ) -> None:
        for name in ("other", "stub"):
            write_bundle(tmp_path, name=name)
        server, client = watched(unload_removed=True)
        shutil.rmtree(tmp_path / "stub")
        wait_for(lambda: [model.name for model in client.list_models()] == ["other"])
        with pytest.raises(CallError, match="NOT_FOUND: no model 'stub' is served; there are other"):
            client.classify(BLACK, model="stub")
        wait_for(lambda: value(server, "consort_model_unloads_total", model="stub") == 1)

    def test_a_model_that_comes_later_leaves_the_default_as_it_was(self, tmp_path: Path, watched: Connect) -> None:
        write_bundle(tmp_path)
        _, client = watched()
        add_bundle(tmp_path, 1, name="another")
        wait_for(lambda: len(client.list_models()) == 2)
        assert client.classify(BLACK).model_name == "stub"

    def test_nothing_is_watched_where_the_settings_say_so(self, tmp_path: Path, watched: Connect) -> None:
        """A load by call is needed; afterwards both are as the folder says."""
        write_bundle(tmp_path)
        server, client = watched(watch_seconds=0, model_control=True)
        add_bundle(tmp_path, 2)
        assert versions(client) == [1]
        with grpc.insecure_channel(target(server)) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="stub"), timeout=60)
        assert versions(client) == [2]


class TestSwapsUnderLoad:
    def test_no_call_fails_or_is_answered_by_a_version_that_is_not_live(
        self, tmp_path: Path, start_server: StartServer
    ) -> None:
        """Twenty swaps; `python -m benchmarks.swaps` makes two hundred."""
        bundle, models = write_bundle(tmp_path / "base"), tmp_path / "models"
        models.mkdir()
        write_version(bundle, models, 1)
        server = start_server(models, watch_seconds=WATCH)
        found = swap_under_load(target(server), bundle, models, count=20, callers=4)
        assert (dict(found.failed), found.misrouted) == ({}, 0)
        assert found.versions > 1
        assert found.calls > 20

    def test_a_reply_is_held_against_the_life_of_its_version(self) -> None:
        says = np.array([0.5, 0.5], np.float32)
        lives = {1: Life(0.0, 2.0, says), 2: Life(1.0, 9.0, says * 2)}
        right, late, early = (
            Reply(0, 1, "OK", 1, says),
            Reply(2.5, 3, "OK", 1, says),
            Reply(0, 0.5, "OK", 2, says * 2),
        )
        false, unknown = Reply(1, 2, "OK", 2, says), Reply(1, 2, "OK", 3, says)
        assert [is_right(one, lives) for one in (right, late, early, false, unknown)] == [True] + [False] * 4
        found = tally([right, late, Reply(0, 1, "UNAVAILABLE")], lives)
        assert str(found) == "3 calls answered by 1 versions; failed: UNAVAILABLE 1; misrouted: 1"


class TestRefusals:
    @pytest.mark.parametrize(("damage", "reason"), BAD.values(), ids=BAD.keys())
    def test_a_bad_bundle_is_refused_with_its_reason_and_the_live_one_unharmed(
        self, tmp_path: Path, watched: Connect, damage: Callable[[Path], None], reason: str
    ) -> None:
        write_bundle(tmp_path)
        server, client = watched()
        before = client.classify(BLACK).classifications[0].probabilities.tolist()
        add_bundle(tmp_path, 2, damage)
        wait_for(lambda: value(server, "consort_bundle_refusals_total", model="stub") == 1)
        ((version, why),) = refusals(client)
        assert (version, why[: len(reason)]) == (2, reason)
        assert str(tmp_path) not in why
        assert versions(client) == [1]
        assert client.classify(BLACK).classifications[0].probabilities.tolist() == before

    def test_a_version_for_other_images_is_refused(self, tmp_path: Path, watched: Connect) -> None:
        write_bundle(tmp_path)
        _, client = watched()
        add_bundle(tmp_path, 2, shape=(3, 4, 4))
        reason = "stub/2 takes images of 3x4x4, version 1 that is served takes 1x4x4; give it a name of its own, "
        wait_for(lambda: refusals(client) == [(2, f"{reason}or unload the model first")])
        assert versions(client) == [1]

    def test_it_is_tried_again_when_its_files_change_and_not_before(
        self, tmp_path: Path, watched: Connect
    ) -> None:
        """Meanwhile the folder is looked at many times, and another version is loaded."""
        write_bundle(tmp_path)
        server, client = watched()
        bad = add_bundle(tmp_path, 3, truncate)
        wait_for(lambda: refusals(client) != [])
        add_bundle(tmp_path, 2)
        wait_for(lambda: versions(client) == [2])
        assert value(server, "consort_bundle_refusals_total", model="stub") == 1
        assert value(server, "consort_refused_bundles") == 1
        good = write_bundle(tmp_path / ".made", version=3)
        shutil.copy(good / "member-2.onnx", bad / "member-2.onnx")
        wait_for(lambda: versions(client) == [3])
        assert (refusals(client), value(server, "consort_refused_bundles")) == ([], 0)

    @pytest.mark.parametrize("unread", ["manifest.json", "member-2.onnx"])
    def test_files_that_could_not_be_read_are_tried_again_unchanged(
        self, tmp_path: Path, watched: Connect, monkeypatch: pytest.MonkeyPatch, unread: str
    ) -> None:
        """A disk fails for a while, and is said to, once."""
        write_bundle(tmp_path)
        server, client = watched()
        failed: list[str] = []

        def failing(read: Callable[..., Any]) -> Callable[..., Any]:
            def fail_or_read(path: Any, *how: Any, **more: Any) -> Any:
                if len(failed) < 5 and str(path).endswith(f"2/{unread}"):
                    failed.append("; ".join(reason for _, reason in refusals(client)))
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return read(path, *how, **more)

            return fail_or_read

        monkeypatch.setattr(os, "open", failing(os.open))
        monkeypatch.setattr(Path, "read_bytes", failing(Path.read_bytes))
        add_bundle(tmp_path, 2)
        wait_for(lambda: versions(client) == [2])
        assert failed[0] == ""
        assert all(why.endswith(f"{unread} cannot be read: Input/output error") for why in failed[1:])
        assert value(server, "consort_bundle_refusals_total", model="stub") == 1
        assert refusals(client) == []

    def test_what_was_unread_and_is_damaged_is_refused_for_that(
        self, tmp_path: Path, watched: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And not loaded again and again."""
        write_bundle(tmp_path)
        server, client = watched()
        looks: list[Path] = []
        read = Path.read_bytes

        def fail_once(path: Path) -> bytes:
            if path.match("2/member-1.onnx"):
                looks.append(path)
                if len(looks) == 1:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", fail_once)
        add_bundle(tmp_path, 2, truncate)
        wait_for(lambda: "member-2.onnx has sha256" in str(refusals(client)))
        add_bundle(tmp_path, 1, name="other")
        wait_for(lambda: value(server, "consort_model_loads_total", model="other") == 1)
        assert len(looks) == 2
        assert value(server, "consort_bundle_refusals_total", model="stub") == 2

    def test_it_is_forgotten_once_its_files_are_as_they_were(self, tmp_path: Path, watched: Connect) -> None:
        folder = write_bundle(tmp_path)
        _, client = watched()
        folder.rename(tmp_path / ".away")
        add_bundle(tmp_path, 1, truncate)
        wait_for(lambda: [version for version, _ in refusals(client)] == [1])
        shutil.rmtree(folder)
        (tmp_path / ".away").rename(folder)
        wait_for(lambda: refusals(client) == [])
        assert versions(client) == [1]

    def test_a_pinned_version_that_comes_back_is_refused_no_longer(self, tmp_path: Path, watched: Connect) -> None:
        for version in (1, 2):
            write_bundle(tmp_path, version=version)
        _, client = watched(pinned_versions={"stub": [1]})
        (tmp_path / "stub/1").rename(tmp_path / ".away")
        wait_for(lambda: refusals(client) == [(1, "stub/1 is pinned, but not in the models folder")])
        (tmp_path / ".away").rename(tmp_path / "stub/1")
        wait_for(lambda: refusals(client) == [])

    def test_it_is_forgotten_with_the_model_though_a_version_is_served_on(
        self, tmp_path: Path, watched: Connect
    ) -> None:
        write_bundle(tmp_path)
        server, client = watched()
        add_bundle(tmp_path, 2, truncate)
        wait_for(lambda: refusals(client) != [])
        shutil.rmtree(tmp_path / "stub")
        wait_for(lambda: value(server, "consort_refused_bundles") == 0)
        assert versions(client) == [1]

    def test_what_is_remembered_of_it_holds_no_call(self, tmp_path: Path, watched: Connect) -> None:
        """Ten loads by call that are refused, on a connection that takes two at a time; the collector rests."""
        write_bundle(tmp_path)
        server, _ = watched(model_control=True, watch_seconds=0, max_connection_streams=2)
        add_bundle(tmp_path, 2, truncate)
        gc.disable()
        try:
            with grpc.insecure_channel(target(server)) as channel:
                control = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
                for _ in range(10):
                    load = control.RepositoryModelLoad.future(
                        oip.RepositoryModelLoadRequest(model_name="stub"), timeout=60
                    )
                    assert load.code() is grpc.StatusCode.FAILED_PRECONDITION, load.details()
        finally:
            gc.enable()

    def test_a_version_that_is_overwritten_while_it_is_live(self, tmp_path: Path, watched: Connect) -> None:
        """A bad change is refused; a good one is loaded like a new version."""
        folder = write_bundle(tmp_path)
        _, client = watched()
        good = (folder / "member-1.onnx").read_bytes()
        falsify(folder)
        wait_for(lambda: [version for version, _ in refusals(client)] == [1])
        assert client.classify(BLACK).classifications[0].label == "class 0"
        (folder / "member-1.onnx").write_bytes(good)
        better = write_bundle(tmp_path / ".made", [StubMember((0.1, 0.8, 0.1))] * 2)
        for file in sorted(better.iterdir()):
            shutil.copy(file, folder)
        wait_for(lambda: client.classify(BLACK).classifications[0].label == "class 1")
        assert refusals(client) == []

    def test_watching_goes_on_while_the_folder_is_away(self, tmp_path: Path, start_server: StartServer) -> None:
        models, away = tmp_path / "models", tmp_path / "away"
        write_bundle(models)
        server = start_server(models, watch_seconds=WATCH)
        models.rename(away)
        wait_for(lambda: value(server, "consort_failed_looks_total") > 0)
        write_bundle(away, version=2)
        away.rename(models)
        with closing(Client(target(server))) as client:
            wait_for(lambda: versions(client) == [2])

    def test_a_start_that_is_not_strict_serves_what_is_good(self, tmp_path: Path, watched: Connect) -> None:
        for version in (1, 2, 3):
            write_bundle(tmp_path, version=version)
        truncate(tmp_path / "stub/3")
        with pytest.raises(BundleRefused, match=r"stub/3: member-2.onnx has sha256"):
            watched()
        _, client = watched(strict_start=False)
        assert (versions(client), [version for version, _ in refusals(client)]) == ([2], [3])

    def test_no_start_serves_nothing(self, tmp_path: Path, watched: Connect) -> None:
        truncate(write_bundle(tmp_path))
        with pytest.raises(BundleRefused, match=r"stub/1: member-2.onnx has sha256"):
            watched(strict_start=False)


class TestStopping:
    def test_what_is_loading_is_finished_and_nothing_more_is_begun(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_bundle(tmp_path)
        begun, may_end, load = threading.Event(), threading.Event(), models.load_ensemble  # type: ignore[attr-defined]  # which it imports
        loaded = []

        def load_slowly(folder: Path, provider: Provider) -> Ensemble:
            loaded.append(folder.parent.name)
            begun.set()
            assert may_end.wait(60)
            return load(folder, provider)

        with run_server(tmp_path, watch_seconds=WATCH) as server:
            monkeypatch.setattr(models, "load_ensemble", load_slowly)
            for name in ("a", "b", "c"):
                write_bundle(tmp_path / ".made", name=name)
                (tmp_path / ".made" / name).rename(tmp_path / name)
            assert begun.wait(60)
            server.drain()
            may_end.set()
        assert loaded == loaded[:1]


class TestLabels:
    def test_calls_ask_by_label_and_go_to_stable_by_themselves(self, tmp_path: Path, watched: Connect) -> None:
        """By either service; a version that a label names is served although it is not the latest."""
        for version in (1, 2, 3):
            write_bundle(tmp_path, version=version)
        write_labels(tmp_path / "stub", {"stable": 1, "canary": 3})
        server, client = watched()
        assert versions(client) == [1, 3]
        assert [list(model.labels) for model in client.list_models()] == [["stable"], ["canary"]]
        asked = [client.classify(BLACK, label=label).model_version for label in ("", "stable", "canary")]
        assert asked == [1, 1, 3]
        assert client.get_model("stub", label="canary").model.version == 3
        with grpc.insecure_channel(target(server)) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for label, ready in (("canary", True), ("blue", False)):
                asked_for = oip.ModelReadyRequest(name="stub", version=label)
                assert stub.ModelReady(asked_for, timeout=60).ready is ready
        with pytest.raises(
            CallError, match="NOT_FOUND: model 'stub' has no label 'blue'; there are canary, stable"
        ):
            client.classify(BLACK, label="blue")
        with pytest.raises(CallError, match="INVALID_ARGUMENT: the request names version 1 and label 'stable'"):
            client.classify(BLACK, label="stable", version=1)

    def test_labels_are_followed(self, tmp_path: Path, watched: Connect) -> None:
        for version in (1, 2):
            write_bundle(tmp_path, version=version)
        write_labels(tmp_path / "stub", {"stable": 1})
        _, client = watched()
        assert client.classify(BLACK).model_version == 1
        write_labels(tmp_path / "stub", {"stable": 2})
        wait_for(lambda: versions(client) == [2])
        (tmp_path / "stub/labels.json").unlink()
        wait_for(lambda: [list(model.labels) for model in client.list_models()] == [[]])

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ('{"stable": 9}', "stub/labels.json: 'stable' names version 9, which is not in the models folder"),
            ('{"stable": 2', "stub/labels.json is no object of labels and versions: Invalid JSON"),
            ('{"Stable": "x"}', "stub/labels.json is no object of labels and versions: Stable"),
        ],
    )
    def test_bad_labels_are_refused_and_the_former_ones_hold(
        self, tmp_path: Path, watched: Connect, content: str, reason: str
    ) -> None:
        for version in (1, 2):
            write_bundle(tmp_path, version=version)
        write_labels(tmp_path / "stub", {"stable": 1})
        _, client = watched()
        (tmp_path / "stub/labels.json").write_text(content)
        wait_for(lambda: refusals(client) != [])
        ((version, why),) = refusals(client)
        assert (version, why[: len(reason)]) == (0, reason)
        assert client.classify(BLACK).model_version == 1
        write_labels(tmp_path / "stub", {"stable": 2})
        wait_for(lambda: client.classify(BLACK).model_version == 2)
        assert refusals(client) == []

    def test_a_canary_gets_its_share(self, tmp_path: Path, watched: Connect) -> None:
        """Of calls that name nothing; those that name a version or label get just that."""
        for version in (1, 2):
            write_bundle(tmp_path, version=version)
        write_labels(tmp_path / "stub", {"stable": 1, "canary": 2})
        _, client = watched(canary_share=0.5)
        got = Counter(client.classify(BLACK).model_version for _ in range(200))
        assert 50 < got[1] < 150  # less likely otherwise than one in 10^12
        assert got[1] + got[2] == 200
        assert {client.classify(BLACK, label="stable").model_version for _ in range(20)} == {1}

    def test_a_canary_answers_calls_and_is_not_described_in_place_of_the_default(
        self, tmp_path: Path, watched: Connect
    ) -> None:
        """By either service, whatever its share. Its outputs have four classes, those of the default three."""
        write_bundle(tmp_path)
        write_bundle(tmp_path, [StubMember((0.4, 0.3, 0.2, 0.1))], version=2)
        write_labels(tmp_path / "stub", {"stable": 1, "canary": 2})
        server, client = watched(canary_share=1.0)
        assert client.classify(BLACK).model_version == 2
        assert client.get_model().model.version == 1
        with grpc.insecure_channel(target(server)) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = stub.ModelInfer(inference(BLACK, model_name="stub"), timeout=60)
            metadata = stub.ModelMetadata(oip.ModelMetadataRequest(name="stub"), timeout=60)
            config = stub.ModelConfig(oip.ModelConfigRequest(name="stub"), timeout=60).config
        assert (answer.model_version, list(answer.outputs[0].shape)) == ("2", [1, 4])
        assert (metadata.outputs[0].name, list(metadata.outputs[0].shape)) == ("probabilities", [-1, 3])
        assert (config.output[0].name, list(config.output[0].dims)) == ("probabilities", [3])


class TestShadow:
    def test_a_candidate_is_compared_and_never_answers(self, tmp_path: Path, watched: Connect) -> None:
        """Version 2 says (0.1, 0.8, 0.1) of what version 1 gives (0.4, 0.35, 0.25): 0.45 apart."""
        write_bundle(tmp_path)
        write_bundle(tmp_path, [StubMember((0.1, 0.8, 0.1))], version=2)
        write_labels(tmp_path / "stub", {"stable": 1, "canary": 2})
        server, client = watched(shadow_share=1.0)
        pair = {"model": "stub", "version": "1", "candidate": "2"}

        def count(outcome: str) -> float:
            return value(server, "consort_shadow_calls_total", **pair, outcome=outcome)

        def show_one() -> bool:
            """Make a call, and wait for what becomes of it; whether a core was free to compare it."""
            seen = count("compared") + count("dropped")
            assert client.classify(np.zeros((3, 1, 4, 4), np.uint8)).model_version == 1
            wait_for(lambda: count("compared") + count("dropped") == seen + 1)
            return count("compared") > 0

        wait_for(show_one)
        images = 3 * count("compared")
        assert value(server, "consort_shadow_images_total", **pair, same_class="false") == images
        assert value(server, "consort_shadow_images_total", **pair, same_class="true") == 0
        assert value(server, "consort_shadow_difference_count", **pair) == images
        total = value(server, "consort_shadow_difference_sum", **pair)
        assert total / images == pytest.approx(0.45, abs=1e-3)
        predictions = {"model": "stub", "version": "2", "class_label": "class 1"}
        assert value(server, "consort_predictions_total", **predictions) == 0

    def test_all_members_of_a_larger_candidate_are_compared_with_all(
        self, tmp_path: Path, watched: Connect
    ) -> None:
        """Version 2 has four members, of which the first says what both of version 1 say; the others differ."""
        same, other = StubMember((0.7, 0.2, 0.1)), StubMember((0.04, 0.95, 0.01))
        write_bundle(tmp_path, [same, same])
        write_bundle(tmp_path, [same, same, other, other], version=2)
        write_labels(tmp_path / "stub", {"stable": 1, "canary": 2})
        server, client = watched(shadow_share=1.0)
        pair = {"model": "stub", "version": "1", "candidate": "2"}

        def is_compared() -> bool:
            client.classify(BLACK)
            return value(server, "consort_shadow_calls_total", **pair, outcome="compared") > 0

        wait_for(is_compared)
        assert value(server, "consort_shadow_images_total", **pair, same_class="true") == 0

    def test_a_candidate_that_fails_fails_nobody(
        self, tmp_path: Path, watched: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for version in (1, 2):
            write_bundle(tmp_path, version=version)
        write_labels(tmp_path / "stub", {"stable": 1, "canary": 2})
        server, client = watched(shadow_share=1.0)
        run = Ensemble.run_member

        def fail_the_second(ensemble: Ensemble, member: int, pixels: Pixels) -> Floats:
            if ensemble.manifest.version == 2:
                raise RuntimeError("a bad day")
            return run(ensemble, member, pixels)

        monkeypatch.setattr(Ensemble, "run_member", fail_the_second)
        labels = {"model": "stub", "version": "1", "candidate": "2", "outcome": "failed"}

        def has_failed() -> bool:
            assert client.classify(BLACK).model_version == 1
            return value(server, "consort_shadow_calls_total", **labels) > 0

        wait_for(has_failed)

    def test_what_is_offered_is_not_taken_while_calls_want_all_cores(self) -> None:
        threads, begun, may_end, ran = InferenceThreads(1), threading.Event(), threading.Event(), threading.Event()

        def call() -> None:
            begun.set()
            assert may_end.wait(60)

        threads.add([call])
        assert begun.wait(60)
        assert not threads.offer(ran.set)
        may_end.set()
        wait_for(lambda: threads.offer(ran.set))
        assert ran.wait(60)
        threads.close()


class TestHealth:
    def test_each_model_has_its_own_under_its_name(self, tmp_path: Path, watched: Connect) -> None:
        """And whoever watches it hears of its unloading and its return."""
        write_bundle(tmp_path)
        server, _ = watched(model_control=True, watch_seconds=0)
        with grpc.insecure_channel(target(server)) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
            control = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="stub"))
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            control.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="stub"), timeout=60)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert (
                health.Check(health_pb2.HealthCheckRequest(), timeout=60).status == 1
            )  # the server itself serves
            control.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="stub"), timeout=60)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()
