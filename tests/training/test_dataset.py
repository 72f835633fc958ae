"""The held-out split is fixed, stratified and disjoint."""

from __future__ import annotations

import pytest
import torch

from training.dataset import Dataset, Images, split_held_out
from training.errors import DataError


def numbered(count: int, classes: int = 2) -> Images:
    """Images of one pixel whose value is their position; classes in turn."""
    return Images(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(count) % classes)


@pytest.mark.parametrize(("most", "kept_back"), [(3, 3), (5, 5), (100, 5)])
def test_split_keeps_back_the_same_of_each_class(most: int, kept_back: int) -> None:
    """A tenth of 50, unless that is more than asked for."""
    train, held_out = split_held_out(numbered(100), most)
    assert held_out.labels.bincount().tolist() == [kept_back] * 2
    assert train.labels.bincount().tolist() == [50 - kept_back] * 2


def test_split_loses_and_repeats_nothing() -> None:
    train, held_out = split_held_out(numbered(100), 10)
    assert sorted(torch.cat([train.pixels, held_out.pixels]).flatten().tolist()) == list(range(100))


def test_split_is_the_same_each_time() -> None:
    first, second = (split_held_out(numbered(100), 10)[1].pixels for _ in range(2))
    assert torch.equal(first, second)


def test_split_refuses_a_class_that_is_too_small() -> None:
    with pytest.raises(DataError, match="class 1 has 9 training images; at least 10 are needed"):
        split_held_out(numbered(19), 1)


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 1, 1, 1), torch.zeros(2), "uint8"),
        (torch.zeros(2, 1, 1, dtype=torch.uint8), torch.zeros(2), "uint8"),
        (torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(3), "2 images came with labels of shape"),
    ],
)
def test_images_must_fit_their_labels(pixels: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Images(pixels, labels)


def test_digest_tells_data_sets_apart() -> None:
    one, other = numbered(4), numbered(5)
    same = [Dataset(one, one, one, ("a", "b")).digest() for _ in range(2)]
    assert same[0] == same[1] != Dataset(one, one, other, ("a", "b")).digest()
