"""The held-out split is fixed, stratified and disjoint."""

from __future__ import annotations

import pytest
import torch

from training.dataset import PLAIN_SAMPLE, Dataset, Images, divide, is_on_plain_ground, set_aside
from training.errors import DataError


def numbered(count: int, classes: int = 2) -> Images:
    """Images of one pixel whose value is their position; classes in turn."""
    return Images(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(count) % classes)


@pytest.mark.parametrize(("most", "kept_back"), [(3, 3), (5, 5), (100, 5)])
def test_split_keeps_back_the_same_of_each_class(most: int, kept_back: int) -> None:
    """A tenth of 50, unless that is more than asked for."""
    train, held_out = set_aside(numbered(100), most)
    assert held_out.labels.bincount().tolist() == [kept_back] * 2
    assert train.labels.bincount().tolist() == [50 - kept_back] * 2


def test_split_loses_and_repeats_nothing() -> None:
    train, held_out = set_aside(numbered(100), 10)
    assert sorted(torch.cat([train.pixels, held_out.pixels]).flatten().tolist()) == list(range(100))


def test_split_is_the_same_each_time() -> None:
    first, second = (set_aside(numbered(100), 10)[1].pixels for _ in range(2))
    assert torch.equal(first, second)


def test_what_is_not_given_is_set_aside_from_the_training_images() -> None:
    dataset = divide("numbers", ("even", "odd"), numbered(200), None, None)
    assert (len(dataset.train), len(dataset.held_out), len(dataset.test)) == (162, 18, 20)
    seen = torch.cat([part.pixels for part in (dataset.train, dataset.held_out, dataset.test)])
    assert sorted(seen.flatten().tolist()) == list(range(200))


def test_what_is_given_is_taken_as_it_is() -> None:
    held_out, test = numbered(3), numbered(4)
    dataset = divide("numbers", ("even", "odd"), numbered(6), held_out, test)
    assert dataset.held_out is held_out
    assert dataset.test is test
    assert len(dataset.train) == 6


def test_all_classes_that_are_too_small_are_named() -> None:
    with pytest.raises(DataError) as error:
        divide("numbers", ("a", "b", "c"), numbered(38), None, None)
    message = str(error.value)
    assert "class 'a' has 19 training images; at least 20 are needed" in message
    assert "class 'b' has 19" in message
    assert "class 'c' has 0" in message


@pytest.mark.parametrize(
    ("class_labels", "message"),
    [
        (("a", ""), "a class label is empty"),
        (("a", "a"), "class label 'a' comes 2 times"),
        (("a", "\udcff"), r"class label '\\udcff' is not UTF-8"),
    ],
)
def test_labels_must_tell_classes_apart(class_labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        divide("numbers", class_labels, numbered(40), None, None)


@pytest.mark.parametrize(
    ("held_out", "test", "message"),
    [(0, 4, "there are no validation images"), (4, 0, "there are no test images")],
)
def test_parts_without_images_are_refused(held_out: int, test: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        divide("numbers", ("even", "odd"), numbered(40), numbered(held_out), numbered(test))


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="one class only, 'a'; at least two are needed"):
        divide("numbers", ("a",), numbered(50, classes=1), None, None)


def test_plain_ground_is_told_by_the_border() -> None:
    generator = torch.Generator().manual_seed(0)
    strokes = torch.full((20, 1, 8, 8), 240, dtype=torch.uint8)
    strokes[:, :, 2:6, 2:6] = torch.randint(0, 255, (20, 1, 4, 4), generator=generator, dtype=torch.uint8)
    noise = torch.randint(0, 255, (20, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(20, dtype=torch.int64)
    assert is_on_plain_ground(Images(strokes, labels))
    assert not is_on_plain_ground(Images(noise, labels))
    assert is_on_plain_ground(Images(strokes.repeat(1, 3, 1, 1), labels))
    striped = strokes.repeat(1, 3, 1, 1)
    striped[:, 2] = noise[:, 0]
    assert not is_on_plain_ground(Images(striped, labels)), "one channel varies"


def test_the_ground_is_judged_by_all_classes() -> None:
    """Plain pictures first, as those of a class that is first by name; two of three are noise."""
    pixels = torch.randint(0, 255, (3 * PLAIN_SAMPLE, 1, 4, 4), dtype=torch.uint8)
    pixels[:PLAIN_SAMPLE] = 0
    assert not is_on_plain_ground(Images(pixels, torch.arange(3).repeat_interleave(PLAIN_SAMPLE)))


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


def test_test_images_that_are_among_the_others_are_counted() -> None:
    pixels = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 1, 4, 4)
    labels = torch.arange(60) % 2
    train, held_out, new = (
        Images(pixels[part], labels[part]) for part in (slice(20), slice(20, 40), slice(40, 60))
    )
    assert Dataset(train, held_out, new, ("a", "b"), "").describe_known() == ""
    mixed = Images(pixels[18:42], labels[18:42])
    assert "22 of the 24 test images" in Dataset(train, held_out, mixed, ("a", "b"), "").describe_known()


def test_digest_tells_data_sets_apart() -> None:
    one, other = numbered(4), numbered(5)
    same = [Dataset(one, one, one, ("a", "b"), "n").digest() for _ in range(2)]
    assert same[0] == same[1] != Dataset(one, one, other, ("a", "b"), "n").digest()
