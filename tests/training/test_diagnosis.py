"""Curves of a known shape are called what they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from training.diagnosis import diagnose
from training.evaluation import Figures
from training.member import EpochMetrics
from training.summary import EnsembleSummary, MemberSummary, Summary

SETTLED = [0.5, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
FALLING = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2]
RISING = [0.5, 0.2, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3]


def curve(train_loss: Sequence[float], held_out_nll: Sequence[float]) -> list[EpochMetrics]:
    return [
        EpochMetrics(
            epoch=epoch,
            learning_rate=1e-3,
            train_loss=loss,
            train_accuracy=0.9,
            held_out_accuracy=0.9,
            held_out_nll=nll,
            seconds=1.0,
        )
        for epoch, (loss, nll) in enumerate(zip(train_loss, held_out_nll, strict=True), start=1)
    ]


def figures(accuracy: float) -> Figures:
    return Figures(
        count=1000, accuracy=accuracy, accuracy_interval=(accuracy - 0.004, accuracy + 0.004), nll=0.1, ece=0.01
    )


def summary(train: float, held_out: float) -> Summary:
    parts = {"train": figures(train), "held_out": figures(held_out), "test": figures(held_out)}
    member = MemberSummary(architecture="linear", seed=1, parameters=1, multiply_adds=1, **parts)
    ensemble = EnsembleSummary(
        temperature=1.0,
        **parts,
        held_out_uncalibrated=parts["held_out"],
        test_uncalibrated=parts["test"],
        test_agreement=1.0,
    )
    return Summary(members=(member, member, member), ensemble=ensemble)


@pytest.mark.parametrize(
    ("train_loss", "held_out_nll", "train", "held_out", "said"),
    [
        (SETTLED, SETTLED, 0.999, 0.995, ["Neither under- nor overfitting shows: "]),
        (
            FALLING,
            SETTLED,
            0.999,
            0.995,
            ["Neither under- nor overfitting shows yet: the training loss still falls"],
        ),
        (FALLING, FALLING, 0.999, 0.995, ["Still learning"]),
        (FALLING, RISING, 0.999, 0.995, ["Overfitting: the held-out loss was lowest around epoch 3 of 8"]),
        (SETTLED, SETTLED, 0.999, 0.95, ["Overfitting: it knows the training images better"]),
        (SETTLED, SETTLED, 0.90, 0.899, ["Underfitting"]),
        (FALLING, FALLING, 0.90, 0.80, ["Underfitting", "Overfitting: it knows", "Still learning"]),
    ],
)
def test_curves_are_called_what_they_are(
    train_loss: list[float], held_out_nll: list[float], train: float, held_out: float, said: list[str]
) -> None:
    curves = [curve(train_loss, held_out_nll)] * 3
    comparison, *judgements = diagnose(curves, summary(train, held_out))
    assert f"{1 - train:.2%} of the training images wrong" in comparison
    assert len(judgements) == len(said)
    assert all(sentence.startswith(begin) for sentence, begin in zip(judgements, said, strict=True))


def test_one_member_of_three_does_not_decide() -> None:
    curves = [curve(FALLING, RISING), curve(SETTLED, SETTLED), curve(SETTLED, SETTLED)]
    assert diagnose(curves, summary(0.999, 0.995))[1].startswith("Neither")


def test_a_single_epoch_shows_no_trend() -> None:
    said = diagnose([curve([0.5], [0.4])], summary(0.999, 0.995))
    assert said[1:] == ["After 1 epochs there is no trend to judge."]


def test_a_gap_within_the_interval_is_an_accident() -> None:
    few = summary(0.999, 0.985)
    wide = few.members[0].held_out.model_copy(update={"accuracy_interval": (0.9, 0.9995)})
    members = tuple(member.model_copy(update={"held_out": wide}) for member in few.members)
    said = diagnose([curve(SETTLED, SETTLED)] * 3, few.model_copy(update={"members": members}))
    assert said[1].startswith("Neither")
