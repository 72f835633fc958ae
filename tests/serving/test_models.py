"""Models are found by name and version, and never by guessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.errors import BundleRefused, SettingsError, UnknownModel
from serving.inference import InferenceThreads
from serving.metrics import Metrics
from serving.models import Models, find_bundles, load_models
from serving.settings import ServerSettings
from tests.bundles import write_bundle

Load = Callable[..., Models]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    loaded: list[Models] = []
    threads = InferenceThreads(1)

    def load(default: str | None = None) -> Models:
        settings = ServerSettings(models=tmp_path, default_model=default)
        loaded.append(load_models(settings, threads, Metrics()))
        return loaded[-1]

    yield load
    for models in loaded:
        models.close()
    threads.close()


def found(models: Models, name: str, version: int) -> str:
    manifest = models.find(name, version).manifest
    return f"{manifest.name}/{manifest.version}"


def test_one_model_needs_no_name(load: Load, tmp_path: Path) -> None:
    write_bundle(tmp_path, name="one")
    assert found(load(), "", 0) == "one/1"


def test_the_latest_version_is_the_highest_number(load: Load, tmp_path: Path) -> None:
    for version in (1, 9, 10):
        write_bundle(tmp_path, name="one", version=version)
    models = load()
    assert [found(models, "one", version) for version in (0, 1, 9)] == ["one/10", "one/1", "one/9"]
    assert [models.is_latest(model) for model in models] == [False, False, True]


def test_several_models_need_a_name_or_a_default(load: Load, tmp_path: Path) -> None:
    write_bundle(tmp_path, name="one")
    write_bundle(tmp_path, name="two")
    with pytest.raises(UnknownModel, match="names no model and the server has several: one, two"):
        load().find("", 0)
    assert found(load(default="two"), "", 0) == "two/1"


def test_what_is_not_served_is_named_with_what_is(load: Load, tmp_path: Path) -> None:
    write_bundle(tmp_path, name="one", version=3)
    with pytest.raises(UnknownModel, match="no model 'two' is served; there are one"):
        load().find("two", 0)
    with pytest.raises(UnknownModel, match="model 'one' has no version 4; served are 3"):
        load().find("one", 4)


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
    assert find_bundles(tmp_path) == [tmp_path / "one/2", tmp_path / "one/10"]


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=r"holds no bundle <name>/<version>/manifest.json"):
        find_bundles(tmp_path)
    with pytest.raises(BundleRefused, match="is not there"):
        find_bundles(tmp_path / "nowhere")


def test_proofs_are_not_counted_as_calls(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    metrics, threads = Metrics(), InferenceThreads(1)
    load_models(ServerSettings(models=tmp_path, provider="auto"), threads, metrics).close()
    threads.close()
    labels = {"model": "stub", "version": "1", "member": "1"}
    assert metrics.registry.get_sample_value("consort_member_inference_seconds_count", labels) == 0
