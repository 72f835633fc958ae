"""Whatever lies in the models folder, the server refuses it or serves it rightly; it never crashes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_bundles import GOOD, Fuzzer, Tally, write_good
from serving.ensemble import Ensemble
from serving.errors import BundleRefused
from serving.labels import read_labels
from tests.bundles import StubMember, write_bundle
from tests.conftest import run_server
from tests.serving.test_server import target


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    """A server that is live, and what damages bundles for it."""
    folder = tmp_path_factory.mktemp("fuzzed")
    members = [StubMember((0.7, 0.2, 0.1), tilt=(0, 2, 0)), StubMember((0.1, 0.5, 0.4))]
    bundle, models = write_bundle(folder / "base", members), folder / "models"
    write_good(bundle, models, GOOD)
    with run_server(models, model_control=True, watch_seconds=0) as server:
        fuzzer = Fuzzer(target(server), bundle, models)
        yield fuzzer
        fuzzer.close()


@given(seed=st.integers(0, 2**32))
@example(seed=0)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_bundle_is_refused_or_served_rightly(fuzzer: Fuzzer, seed: int) -> None:
    """And the good version answers as before; `python -m benchmarks.fuzz_bundles` tries thousands."""
    assert fuzzer.try_one(seed) in {"refused", "served"}


def test_the_tally_tells_what_broke() -> None:
    found = Tally()
    for seed, outcome in enumerate(["refused", "refused", "served", "UNAVAILABLE: gone"]):
        found.add(seed, outcome)
    assert str(found) == "4 bundles: refused 2, served 1, broken 1\n  seed 3: UNAVAILABLE: gone"


def test_a_pipe_in_place_of_a_file_holds_nothing_up(tmp_path: Path) -> None:
    """Opening one would wait for somebody to write to it."""
    folder = write_bundle(tmp_path)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(BundleRefused, match=r"manifest.json cannot be read: it is not a regular file"):
        Ensemble(folder, "cpu")
    os.mkfifo(folder.parent / "labels.json")
    with pytest.raises(BundleRefused, match=r"labels.json is not a regular file"):
        read_labels(folder.parent)
