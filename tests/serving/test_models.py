"""Models are found by name and version, and never by guessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.admission import Admission
from serving.errors import BundleRefused, SettingsError, UnknownModel
from serving.inference import InferenceThreads
from serving.metrics import Metrics
from serving.repository import scan
from serving.rollout import Rollout
from serving.routing import Models
from serving.settings import ServerSettings
from tests.bundles import write_bundle

Load = Callable[..., Models]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Loads the folder as a server does at its start."""
    loaded: list[Rollout] = []
    threads = InferenceThreads(1)

    def load(default: str | None = None, versions: int = 1, metrics: Metrics | None = None) -> Models:
        settings = ServerSettings(models=tmp_path, default_model=default, latest_versions=versions)
        loaded.append(Rollout(settings, threads, metrics or Metrics(), Admission(1)))
        loaded[-1].start()
        return loaded[-1].models

    yield load
    for rollout in loaded:
        rollout.close()
    threads.close()


def found(models: Models, name: str, version: int) -> str:
    """Name and version of what a call gets."""
    manifest = models.find(name, version).manifest
    return f"{manifest.name}/{manifest.version}"


def test_one_model_needs_no_name(load: Load, tmp_path: Path) -> None:
    write_bundle(tmp_path, name="one")
    assert found(load(), "", 0) == "one/1"


def test_the_latest_version_is_the_highest_number(load: Load, tmp_path: Path) -> None:
    for version in (1, 9, 10):
        write_bundle(tmp_path, name="one", version=version)
    models = load(versions=3)
    assert [found(models, "one", version) for version in (0, 1, 9)] == ["one/10", "one/1", "one/9"]
    assert [models.is_default(model) for model in models] == [False, False, True]


def test_several_models_need_a_name_or_a_default(load: Load, tmp_path: Path) -> None:
    write_bundle(tmp_path, name="one")
    write_bundle(tmp_path, name="two")
    with pytest.raises(UnknownModel, match="names no model, and none is the default; there are one, two"):
        load().find("", 0)
    assert found(load(default="two"), "", 0) == "two/1"


def test_what_is_not_served_is_named_with_what_is(load: Load, tmp_path: Path) -> None:
    write_bundle(tmp_path, name="one", version=3)
    with pytest.raises(UnknownModel, match="no model 'two' is served; there are one"):
        load().find("two", 0)
    with pytest.raises(UnknownModel, match="model 'one' has no version 4; served are 3"):
        load().find("one", 4)
    with pytest.raises(UnknownModel, match="model 'one' has no label 'canary'; there are none"):
        load().find("one", 0, "canary")


def test_a_default_that_is_not_served_is_refused(load: Load, tmp_path: Path) -> None:
    write_bundle(tmp_path, name="one")
    with pytest.raises(SettingsError, match="default_model 'two' is not served; there are one"):
        load(default="two")


def test_one_bad_bundle_stops_the_start(load: Load, tmp_path: Path) -> None:
    """Nothing is served in place of what was asked for."""
    write_bundle(tmp_path, name="one")
    (write_bundle(tmp_path, name="two") / "member-1.onnx").unlink()
    with pytest.raises(BundleRefused, match="two/1"):
        load()


def test_unfinished_and_foreign_folders_are_passed_over(tmp_path: Path) -> None:
    for name in (".unfinished-x/1", "one/2", "one/10", "one/latest", "one/007"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "README").touch()
    (tmp_path / "one/3").touch()
    bundles = scan(tmp_path).bundles
    assert {name: list(versions) for name, versions in bundles.items()} == {"one": [2, 10]}


def test_a_folder_that_leads_in_circles_is_looked_at_once(tmp_path: Path) -> None:
    write_bundle(tmp_path, name="one")
    (tmp_path / "one/1/again").symlink_to(tmp_path)
    bundle = scan(tmp_path).bundles["one"][1]
    assert sorted(name for name, *_ in bundle.files) == [
        "again",
        "manifest.json",
        "member-1.onnx",
        "member-2.onnx",
    ]


def test_an_empty_or_missing_folder_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=r"holds no bundle <name>/<version>/manifest.json"):
        load()
    with pytest.raises(BundleRefused, match="nowhere cannot be read: No such file or directory"):
        scan(tmp_path / "nowhere")


def test_proofs_are_not_counted_as_calls(load: Load, tmp_path: Path) -> None:
    write_bundle(tmp_path)
    metrics = Metrics()
    load(metrics=metrics)
    labels = {"model": "stub", "version": "1", "member": "1"}
    assert metrics.registry.get_sample_value("consort_member_inference_seconds_count", labels) == 0
