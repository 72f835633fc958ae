"""The figures, against numbers worked out by hand or taken from their sources."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation import average, calibrate, fit_temperature, measure, wilson_interval


def test_accuracy_and_nll() -> None:
    probabilities = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.5, 0.5], [0.1, 0.9]])
    figures = measure(probabilities, torch.tensor([0, 1, 1, 0]))
    assert figures.count == 4
    assert figures.accuracy == 0.5  # equals go to the first class, so the third is wrong
    assert figures.nll == pytest.approx(-math.log(0.8 * 0.6 * 0.5 * 0.1) / 4)


def test_calibration_error() -> None:
    """Ten images at 0.75, six right; ten at 0.95, all right: (10 * 0.15 + 10 * 0.05) / 20 = 0.1."""
    probabilities = torch.tensor([[0.75, 0.25]] * 10 + [[0.95, 0.05]] * 10)
    labels = torch.tensor([0] * 6 + [1] * 4 + [0] * 10)
    assert measure(probabilities, labels).ece == pytest.approx(0.1, abs=1e-6)


def test_a_sure_and_right_ensemble_has_no_error() -> None:
    figures = measure(torch.eye(3), torch.arange(3))
    assert (figures.accuracy, figures.nll, figures.ece) == (1.0, 0.0, 0.0)


def test_wilson_interval_of_a_known_case() -> None:
    """81 of 263, an example of R. Newcombe, "Two-sided confidence intervals" (1998), table I."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(st.integers(1, 10_000), st.data())
def test_wilson_interval_holds_its_proportion(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert low < high


def test_average_is_the_arithmetic_mean() -> None:
    members = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]], [[0.4, 0.6]]])
    assert torch.allclose(average(members), torch.tensor([[0.5, 0.5]]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_that_was_applied_is_found_again(temperature: float) -> None:
    """Labels drawn from p are best told by p, so p^(1/t) needs temperature 1/t."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.softmax(torch.randn(20_000, 5, generator=generator), dim=1)
    labels = torch.multinomial(truth, 1, generator=generator).squeeze(1)
    assert fit_temperature(calibrate(truth, temperature), labels) == pytest.approx(1 / temperature, rel=0.05)


@pytest.mark.parametrize("count", [2, 20, 200])
def test_images_none_of_which_is_read_wrong_leave_the_temperature_near_one(count: int) -> None:
    """Without the prior, any temperature would be the better the smaller it is."""
    sure = torch.tensor([[0.98, 0.01, 0.01]]).repeat(count, 1)
    temperature = fit_temperature(sure, torch.zeros(count, dtype=torch.int64))
    assert 0.6 < temperature < 1


def test_calibration_by_hand() -> None:
    """Squared and renormalized: 0.64 / (0.64 + 0.04)."""
    assert calibrate(torch.tensor([[0.8, 0.2]]), 0.5)[0, 0].item() == pytest.approx(0.64 / 0.68)


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=6), st.floats(0.3, 3))
def test_calibration_keeps_the_order(values: list[float], temperature: float) -> None:
    probabilities = torch.tensor([values]) / sum(values)
    calibrated = calibrate(probabilities, temperature)
    assert calibrated.sum().item() == pytest.approx(1, abs=1e-5)
    order = probabilities.argsort(dim=1, stable=True)
    assert (calibrated.gather(1, order).diff() >= 0).all()
