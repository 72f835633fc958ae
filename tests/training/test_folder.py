"""Folders of image files: what is read, what is chosen, and everything that is wrong named at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from training.dataset import MOST_PROBLEMS_SHOWN
from training.errors import DataError
from training.folder import load_folder
from training.sources import load_dataset


def fill(folder: Path, count: int = 20, size: tuple[int, int] = (8, 8), mode: str = "L", colour: int = 90) -> Path:
    """Write plain pictures into a class folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new(mode, size, colour).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 20 grey pictures."""
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name)
    return tmp_path / "pets"


def test_a_folder_a_class_is_divided_in_three(folder: Path) -> None:
    dataset = load_folder(folder, None)
    assert dataset.class_labels == ("cat", "dog")
    assert dataset.image_shape == (1, 8, 8)
    assert dataset.name == "image folder 'pets'"
    assert (len(dataset.train), len(dataset.held_out), len(dataset.test)) == (34, 2, 4)


def test_given_parts_are_kept(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, count)
    dataset = load_folder(tmp_path, None)
    assert (len(dataset.train), len(dataset.held_out), len(dataset.test)) == (10, 4, 6)


@pytest.mark.parametrize(("part", "called"), [("val", "validation"), ("test", "test")])
@pytest.mark.parametrize("hidden", [(), (".gitkeep",)])
def test_a_given_part_must_have_images(tmp_path: Path, part: str, called: str, hidden: tuple[str, ...]) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name)
    (tmp_path / part).mkdir()
    for file in hidden:
        (tmp_path / part / file).touch()
    with pytest.raises(DataError) as error:
        load_folder(tmp_path, None)
    said = f"there are no {called} images; leave that part out to have some set aside"
    assert str(error.value) == f"image folder {tmp_path.name!r} cannot be trained on:\n  - {said}"


@pytest.mark.parametrize(("part", "called"), [("val", "validation"), ("test", "test")])
def test_a_given_part_must_have_every_class(tmp_path: Path, part: str, called: str) -> None:
    """Its figures would be silent about the class that is absent."""
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name)
    fill(tmp_path / part / "dog")
    with pytest.raises(DataError, match=f"class 'cat' has no {called} images, so nothing would be known of it"):
        load_folder(tmp_path, None)


@pytest.mark.parametrize("stray", ["valid", "Test", "README.md", "test"])
def test_nothing_beside_the_parts_is_left_out_in_silence(tmp_path: Path, stray: str) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name)
    (tmp_path / ".DS_Store").touch()
    if stray in ("valid", "Test"):
        fill(tmp_path / stray / "cat")
    else:
        (tmp_path / stray).touch()
    with pytest.raises(DataError) as error:
        load_folder(tmp_path, None)
    said = f"{tmp_path / stray} lies beside train, where only folders val and test are expected"
    assert str(error.value) == f"image folder {tmp_path.name!r} cannot be trained on:\n  - {said}"


def test_a_class_folder_whose_name_is_no_text_is_named(folder: Path) -> None:
    """As an archive of another encoding leaves it; no file of a run could hold that name."""
    (folder / "cat").rename(folder / "caf\udce9")
    with pytest.raises(DataError, match=r"class label 'caf\\udce9' is not UTF-8"):
        load_folder(folder, None)


def test_pictures_of_broken_exif_are_taken_as_upright(folder: Path) -> None:
    Image.new("L", (8, 8), 90).save(folder / "cat" / "0.jpg", dpi=(72, 72), exif=b"Exif\0\0no TIFF file")
    assert load_folder(folder, None).image_shape == (1, 8, 8)


def test_labels_follow_the_folders(tmp_path: Path) -> None:
    fill(tmp_path / "dark", colour=10)
    fill(tmp_path / "light", colour=250)
    train = load_folder(tmp_path, None).train
    assert torch.equal(train.pixels[:, 0, 0, 0] > 128, train.labels == 1)


def test_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "1", "none"):
        fill(tmp_path / name)
    assert load_folder(tmp_path, None).class_labels == ("1", "9", "10", "none")


def test_one_picture_in_colour_makes_all_colour(folder: Path) -> None:
    Image.new("RGB", (8, 8), (90, 90, 91)).save(folder / "dog" / "0.png")
    assert load_folder(folder, None).image_shape == (3, 8, 8)


def test_greys_that_are_kept_as_colours_are_grey(folder: Path) -> None:
    """As scanners and many programs write them."""
    Image.new("RGB", (8, 8), (90, 90, 90)).save(folder / "dog" / "scan.jpg")
    Image.new("RGBA", (8, 8), (91, 91, 91, 255)).save(folder / "cat" / "drawn.png")
    dataset = load_folder(folder, None)
    assert dataset.image_shape == (1, 8, 8)
    assert 91 in dataset.train.pixels


def test_a_palette_of_greys_is_grey(folder: Path) -> None:
    Image.new("L", (8, 8), 90).convert("P").save(folder / "dog" / "palette.png")
    assert load_folder(folder, None).image_shape == (1, 8, 8)
    Image.new("RGB", (8, 8), "red").quantize(2).save(folder / "dog" / "colours.png")
    assert load_folder(folder, None).image_shape == (3, 8, 8)


def picture_of(mode: str) -> Image.Image:
    """Red, 8x8, in a mode that has colours; or 118 of 255 in one of greys."""
    match mode:
        case "I;16":
            return Image.fromarray(np.full((8, 8), 118 * 257, np.uint16))
        case "P":
            return Image.new("RGB", (8, 8), (200, 30, 30)).quantize(2)
        case _:
            return Image.new("RGB", (8, 8), (200, 30, 30)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "file", "seen"),
    [
        ("P", "palette.png", (200, 30, 30)),
        ("RGBA", "transparent.png", (200, 30, 30)),
        ("CMYK", "printed.jpg", (200, 30, 30)),
        ("I;16", "deep.png", (118, 118, 118)),
        ("LA", "grey.png", (81, 81, 81)),
    ],
)
def test_pictures_of_every_mode_are_seen_as_they_look(
    mode: str, file: str, seen: tuple[int, int, int], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name, mode="RGB")
    picture_of(mode).save(tmp_path / "a" / file, quality=95)
    train = load_folder(tmp_path, None)
    pixels = torch.cat([train.train.pixels, train.held_out.pixels, train.test.pixels])
    assert pixels.shape[1:] == (3, 8, 8)
    wanted = torch.tensor(seen, dtype=torch.float32)
    assert any((picture.float().mean(dim=(1, 2)) - wanted).abs().max() <= 2 for picture in pixels)


def test_sizes_are_those_after_turning(tmp_path: Path) -> None:
    """As cameras write them: the pixels lie on their side, and a tag says how to turn them."""
    sideways = Image.Exif()
    sideways[ExifTags.Base.Orientation] = 6
    for name in ("a", "b"):
        fill(tmp_path / name, size=(20, 16))
        for number in range(20):
            Image.new("L", (16, 20), 90).save(tmp_path / name / f"turned-{number}.jpg", exif=sideways)
    assert load_folder(tmp_path, None).image_shape == (1, 16, 20)


@pytest.mark.parametrize(("size", "side", "shape"), [((12, 10), None, (1, 32, 32)), ((8, 8), 16, (1, 16, 16))])
def test_pictures_are_resized_if_they_differ_or_if_asked(
    folder: Path, size: tuple[int, int], side: int | None, shape: tuple[int, int, int]
) -> None:
    fill(folder / "dog", 1, size)
    assert load_folder(folder, side).image_shape == shape


def test_large_pictures_of_one_size_are_resized(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name, size=(65, 40))
    assert load_folder(tmp_path, None).image_shape == (1, 32, 32)


def test_small_pictures_of_one_size_keep_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name, size=(20, 16))  # width, height
    assert load_folder(tmp_path, None).image_shape == (1, 16, 20)


def test_hidden_files_are_passed_over(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "cat" / ".hidden.png").write_bytes(b"x")
    assert load_folder(folder, None).class_labels == ("cat", "dog")


def test_everything_that_is_wrong_is_named_at_once(folder: Path) -> None:
    (folder / "cat" / "notes.txt").write_text("hello")
    (folder / "dog" / "broken.png").write_bytes((folder / "dog" / "0.png").read_bytes()[:20])
    (folder / "loose.png").write_bytes(b"x")
    (folder / "empty").mkdir()
    fill(folder / "rare", 3)
    whole = (fill(folder.parent / "other", 1, (64, 64)) / "0.png").read_bytes()
    (folder / "cat" / "cut.png").write_bytes(whole[:-30])
    with pytest.raises(DataError) as error:
        load_folder(folder, None)
    message = str(error.value)
    assert message.startswith("image folder 'pets' cannot be trained on:")
    assert f"{folder}/cat/cut.png is a damaged PNG file of 64x64 pixels" in message
    assert "class 'rare' has 3 training images; at least 20 are needed" in message
    assert f"{folder}/cat/notes.txt is 5 bytes that are no PNG, JPEG, WebP or BMP file" in message
    assert f"{folder}/dog/broken.png is" in message
    assert f"{folder}/loose.png lies outside the class folders" in message
    assert f"{folder}/empty has no images" in message


def test_damaged_content_is_found_before_training(folder: Path) -> None:
    whole = fill(folder.parent / "other", 1, (64, 64), "RGB") / "0.png"
    (folder / "cat" / "cut.png").write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cut.png is a damaged PNG file of 64x64 pixels"):
        load_folder(folder, None)


def test_long_lists_end_with_a_count(folder: Path) -> None:
    for number in range(MOST_PROBLEMS_SHOWN + 7):
        (folder / f"loose-{number}").touch()
    with pytest.raises(DataError, match=r"and 7 more$"):
        load_folder(folder, None)


def test_classes_of_other_parts_must_be_known(tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "test/a", "test/c"):
        fill(tmp_path / place)
    with pytest.raises(DataError, match="test has a class 'c' that train has not"):
        load_folder(tmp_path, None)


def test_small_classes_are_named_with_their_count(folder: Path) -> None:
    fill(folder / "bird", 19)
    with pytest.raises(DataError, match="class 'bird' has 19 training images; at least 20 are needed"):
        load_folder(folder, None)


def test_one_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "only")
    with pytest.raises(DataError, match="one class only"):
        load_folder(tmp_path, None)


class TestSources:
    def test_a_folder_of_idx_files(self, drawn_digits: Path) -> None:
        assert load_dataset(drawn_digits).name == f"IDX files {drawn_digits.name!r}"

    def test_a_folder_of_images(self, folder: Path) -> None:
        assert load_dataset(folder, side=9).image_shape == (1, 9, 9)

    def test_arrays_keep_their_size(self, drawn_digits: Path) -> None:
        with pytest.raises(DataError, match="leave out --image-side"):
            load_dataset(drawn_digits, side=9)

    @pytest.mark.parametrize("exists", [True, False])
    def test_nothing_is_downloaded_unasked(self, tmp_path: Path, exists: bool) -> None:
        place = tmp_path if exists else tmp_path / "nowhere"
        with pytest.raises(DataError, match=r"there are no images at .* with --download-mnist"):
            load_dataset(place)

    def test_mnist_is_never_downloaded_among_other_images(self, folder: Path) -> None:
        before = sorted(folder.rglob("*"))
        load_dataset(folder, download_mnist=True)
        assert sorted(folder.rglob("*")) == before
