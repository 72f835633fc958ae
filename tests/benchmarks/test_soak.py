"""What the long run concludes from what it saw, worked out by hand; and that a short one runs."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bystander import Lap, stand_by
from benchmarks.mix import Ended
from benchmarks.soak import Held, by_minute, find_unexpected, growth, over_bystander

ROOT = Path(__file__).parents[2]


def test_growth_is_counted_from_the_first_minute_after_the_warm_up() -> None:
    assert growth([50.0, 100.0, 120.0, 110.0], 1) == pytest.approx(0.1)
    assert growth([50.0, 100.0], 1) == 0.0


def test_minutes_gather_what_was_due_in_them() -> None:
    """A hundred calls of 1 to 100 ms in the first minute, one of 7 ms in the second; another kind only counts."""
    ended = [Ended("one image", 30.0, number / 1000, "OK") for number in range(1, 101)]
    ended += [Ended("one image", 61.0, 0.007, "OK"), Ended("list", 62.0, 9.0, "OK")]
    held = [Held(10.0, 100_000_000, 8, 20), Held(50.0, 300_000_000, 10, 22), Held(119.0, 400_000_000, 9, 21)]
    laps = [Lap(10.0, 0.033), Lap(70.0, 0.014)]
    first, second = by_minute(ended, held, laps)
    assert (first.calls, second.calls) == (100, 2)
    assert first.p50_ms == pytest.approx(50.5)
    assert first.p99_ms == pytest.approx(99.01)
    assert second.p99_ms == pytest.approx(7.0)
    assert first.bystander_p99_ms == pytest.approx(33.0)
    assert over_bystander([first, second]) == pytest.approx([99.01 / 33, 0.5, math.nan], nan_ok=True)
    assert (first.resident_mb, first.descriptors, first.threads) == (200.0, 9.0, 21.0)


def test_a_bystander_works_at_even_intervals() -> None:
    laps = stand_by(0.5)
    assert [lap.due for lap in laps] == pytest.approx([0.0, 0.2, 0.4])
    assert all(lap.seconds > 0.001 for lap in laps)


def test_a_status_that_its_kind_does_not_allow_is_unexpected() -> None:
    ended = [
        Ended("one image", 0, 0.01, "OK"),
        Ended("one image", 0, 0.01, "INTERNAL"),
        Ended("cancelled", 0, 0.01, "CANCELLED"),
        Ended("wrong shape", 0, 0.01, "OK"),
    ]
    assert find_unexpected(ended) == {"one image: INTERNAL": 1, "wrong shape: OK": 1}


def test_a_short_run_finds_nothing_wrong() -> None:
    """Three seconds of the whole mix, with clients that crash."""
    short = ["--minutes", "0.05", "--burst-seconds", "0.5", "--crash-pause-seconds", "1"]
    command = [sys.executable, "-m", "benchmarks.soak", *short]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ended as they must not: 0" in result.stdout, result.stdout + result.stderr
    assert "clients killed in the middle of calls: " in result.stdout
