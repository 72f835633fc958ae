"""The averaging, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.verdict import Floats, Verdict, are_settled, fewest_to_settle
from serving.verdict import judge as judge_those_that_ran

# Two members, one image, three classes; the average is (0.4, 0.45, 0.15).
MEMBERS = np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.7, 0.2]]], np.float32)


def judge(members: Floats, temperature: float) -> Verdict:
    """With all members run."""
    return judge_those_that_ran(members, np.full(members.shape[1], len(members)), temperature)


def entropy(*probabilities: float) -> float:
    return -sum(p * math.log(p) for p in probabilities)


def test_average_and_ranking() -> None:
    verdict = judge(MEMBERS, temperature=1.0)
    assert verdict.probabilities[0] == pytest.approx([0.4, 0.45, 0.15])
    assert verdict.ranking.tolist() == [[1, 0, 2]]


def test_entropy_is_that_of_the_average() -> None:
    assert judge(MEMBERS, 1.0).entropy[0] == pytest.approx(entropy(0.4, 0.45, 0.15))


def test_mutual_information_is_what_the_members_do_not_share() -> None:
    own = (entropy(0.7, 0.2, 0.1) + entropy(0.1, 0.7, 0.2)) / 2
    assert judge(MEMBERS, 1.0).mutual_information[0] == pytest.approx(entropy(0.4, 0.45, 0.15) - own)


def test_agreement_is_the_share_that_votes_with_the_ensemble() -> None:
    three = np.array([[[0.9, 0.1]], [[0.8, 0.2]], [[0.4, 0.6]]], np.float32)
    assert judge(three, 1.0).agreement.tolist() == pytest.approx([2 / 3])


def test_temperature_sharpens_the_reported_probabilities_alone() -> None:
    plain, sharp = judge(MEMBERS, 1.0), judge(MEMBERS, 0.5)
    squares = np.array([0.4, 0.45, 0.15]) ** 2
    assert sharp.probabilities[0] == pytest.approx(squares / squares.sum())
    assert sharp.entropy == plain.entropy
    assert sharp.mutual_information == plain.mutual_information
    assert sharp.ranking.tolist() == plain.ranking.tolist()


def test_certain_members_leave_no_uncertainty() -> None:
    verdict = judge(np.array([[[1, 0, 0]], [[1, 0, 0]]], np.float32), 1.0)
    assert verdict.probabilities[0] == pytest.approx([1, 0, 0], abs=1e-20)
    assert (verdict.entropy[0], verdict.mutual_information[0], verdict.agreement[0]) == (0, 0, 1)


def test_certain_members_that_disagree_are_all_mutual_information() -> None:
    verdict = judge(np.array([[[1, 0]], [[0, 1]]], np.float32), 1.0)
    assert verdict.entropy[0] == pytest.approx(math.log(2))
    assert verdict.mutual_information[0] == pytest.approx(math.log(2))


def test_members_that_did_not_run_count_for_nothing() -> None:
    """The second image was settled by the first member alone."""
    two = np.concatenate([MEMBERS, MEMBERS], axis=1)  # (2, 2, 3)
    two[1, 1] = 0
    verdict = judge_those_that_ran(two, np.array([2, 1]), 1.0)
    assert verdict.probabilities == pytest.approx(np.array([[0.4, 0.45, 0.15], [0.7, 0.2, 0.1]]))
    assert verdict.entropy[1] == pytest.approx(entropy(0.7, 0.2, 0.1))
    assert verdict.mutual_information[1] == 0
    assert verdict.agreement.tolist() == [0.5, 1.0]


def test_a_slice_is_the_verdict_on_some_of_the_images() -> None:
    verdict = judge(np.concatenate([MEMBERS, MEMBERS[:, :, ::-1]], axis=1), 1.0)
    second = verdict[1:2]
    assert second.ranking.tolist() == [[1, 2, 0]]
    assert second.members.shape == (2, 1, 3)
    assert (len(second.entropy), len(second.agreement), len(second.members_run)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("sums", "left", "settled"),
    [
        ((3.9, 0.1, 0.0), 3, True),  # a lead of 3.8
        ((3.4, 0.6, 0.0), 3, False),  # of 2.8
        ((3.0, 0.0, 0.0), 3, False),  # three members can still bring a tie
        ((0.2, 0.3, 0.5), 0, True),
    ],
)
def test_a_class_is_settled_once_it_leads_by_more_than_what_is_left(
    sums: tuple[float, ...], left: int, settled: bool
) -> None:
    assert are_settled(np.array([sums]), left).tolist() == [settled]


@pytest.mark.parametrize(("members", "fewest"), [(1, 1), (2, 2), (5, 3), (6, 4)])
def test_nothing_is_settled_by_half_of_the_members(members: int, fewest: int) -> None:
    assert fewest_to_settle(members) == fewest
    assert not are_settled(np.array([[float(fewest - 1), 0.0]]), members - fewest + 1).any()


def test_equals_keep_the_models_order() -> None:
    assert judge(np.full((2, 1, 4), 0.25, np.float32), 1.0).ranking.tolist() == [[0, 1, 2, 3]]


@given(
    hnp.arrays(np.float64, st.tuples(*[st.integers(1, 5)] * 2, st.integers(2, 6)), elements=st.floats(-30, 30)),
    st.floats(0.3, 3),
)
def test_what_holds_for_all_ensembles(logits: Floats, temperature: float) -> None:
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    members = (powers / powers.sum(axis=2, keepdims=True)).astype(np.float32)
    verdict = judge(members, temperature)
    classes = members.shape[2]
    assert np.allclose(verdict.probabilities.sum(axis=1), 1, atol=1e-5)
    assert (verdict.entropy <= math.log(classes) + 1e-5).all()
    assert (verdict.mutual_information >= 0).all()
    assert (verdict.mutual_information <= verdict.entropy + 1e-5).all()
    ranked = np.take_along_axis(verdict.probabilities, verdict.ranking, axis=1)
    assert (np.diff(ranked, axis=1) <= 1e-7).all()
