"""Training a member: it learns, repeats itself bit for bit, survives interruption, and stops when it diverges."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from training.augmentation import Affine
from training.checkpoint import load_tensors, save_tensors
from training.dataset import Dataset, Images
from training.errors import CheckpointError, DivergenceError, RecipeError, RunError
from training.learner import Learner, Plan
from training.member import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    STATE_FILE,
    EpochMetrics,
    read_metrics,
    train_epoch,
    train_member,
)
from training.recipe import Recipe

RECIPE = Recipe(
    name="tiny",
    architectures=("cnn_slim",),
    epochs=3,
    batch_images=16,
    learning_rate=2e-3,
    schedule="one_cycle",
    weight_decay=0.01,
    average_decay=0.9,
    affines=(Affine(rotation_degrees=5, shift=0.05),),
)


class Stop(Exception):
    """Raised by a test to stop a training."""


class Watcher:
    """An observer that may stop a training before a step or after an epoch."""

    def __init__(self, stop_at_step: int | None = None, stop_after_epoch: int | None = None) -> None:
        self.stop_at_step, self.stop_after_epoch = stop_at_step, stop_after_epoch
        self.epochs: list[EpochMetrics] = []

    def step(self, done: int, total: int) -> None:
        assert 1 <= done <= total
        if done == self.stop_at_step:
            raise Stop

    def epoch(self, metrics: EpochMetrics) -> None:
        self.epochs.append(metrics)
        if metrics.epoch == self.stop_after_epoch:
            raise Stop


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Bright squares on the left (class 0) or on the right (class 1) of a noisy ground."""
    generator = torch.Generator().manual_seed(0)

    def squares(count: int) -> Images:
        labels = torch.arange(count) % 2
        pixels = torch.randint(0, 60, (count, 1, 16, 16), generator=generator, dtype=torch.uint8)
        for index, label in enumerate(labels.tolist()):
            pixels[index, 0, 4:12, 1 + 8 * label : 7 + 8 * label] = 220
        return Images(pixels, labels)

    return Dataset(squares(64), squares(32), squares(32), ("left", "right"), "squares")


def plan(seed: int = 1, recipe: Recipe = RECIPE, precision: torch.dtype = torch.float32) -> Plan:
    return Plan(recipe, 1, seed, precision)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(folder / CHECKPOINT_FILE)[0]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_member_learns(dataset: Dataset, tmp_path: Path) -> None:
    watcher = Watcher()
    train_member(plan(recipe=RECIPE.model_copy(update={"epochs": 6})), dataset, tmp_path, watcher)
    assert watcher.epochs[-1].held_out_accuracy == 1.0
    assert watcher.epochs[-1].train_loss < watcher.epochs[0].train_loss / 2
    assert read_metrics(tmp_path) == watcher.epochs
    assert not (tmp_path / STATE_FILE).exists()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_same_seed_gives_the_same_weights(dataset: Dataset, tmp_path: Path, precision: torch.dtype) -> None:
    for folder in ("one", "other"):
        train_member(plan(precision=precision), dataset, tmp_path / folder, Watcher())
    assert same(weights(tmp_path / "one"), weights(tmp_path / "other"))


def test_another_seed_gives_other_weights(dataset: Dataset, tmp_path: Path) -> None:
    for seed in (1, 2):
        train_member(plan(seed), dataset, tmp_path / str(seed), Watcher())
    assert not same(weights(tmp_path / "1"), weights(tmp_path / "2"))


@pytest.mark.parametrize(
    "interrupted",
    [Watcher(stop_at_step=1), Watcher(stop_after_epoch=1), Watcher(stop_at_step=7), Watcher(stop_after_epoch=3)],
    ids=["first step", "after an epoch", "amid an epoch", "before the checkpoint"],
)
def test_a_resumed_member_equals_an_unbroken_one(dataset: Dataset, tmp_path: Path, interrupted: Watcher) -> None:
    """Bit for bit, metrics included but for the seconds."""
    train_member(plan(), dataset, tmp_path / "unbroken", Watcher())
    with pytest.raises(Stop):
        train_member(plan(), dataset, tmp_path / "resumed", interrupted)
    train_member(plan(), dataset, tmp_path / "resumed", Watcher())
    assert same(weights(tmp_path / "unbroken"), weights(tmp_path / "resumed"))
    unbroken, resumed = (
        [metrics.model_dump(exclude={"seconds"}) for metrics in read_metrics(tmp_path / name)]
        for name in ("unbroken", "resumed")
    )
    assert unbroken == resumed


def test_a_metrics_line_without_its_state_is_written_again(dataset: Dataset, tmp_path: Path) -> None:
    """As a crash between the two leaves it."""
    with pytest.raises(Stop):
        train_member(plan(), dataset, tmp_path, Watcher(stop_after_epoch=1))
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write((tmp_path / METRICS_FILE).read_text())
    train_member(plan(), dataset, tmp_path, Watcher())
    assert [metrics.epoch for metrics in read_metrics(tmp_path)] == [1, 2, 3]


def damage(folder: Path, dataset: Dataset) -> None:
    """Leave a member after its first epoch."""
    with pytest.raises(Stop):
        train_member(plan(), dataset, folder, Watcher(stop_after_epoch=1))


def test_lost_metrics_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    damage(tmp_path, dataset)
    (tmp_path / METRICS_FILE).unlink()
    with pytest.raises(RunError, match=r"has 0 epochs, but state.safetensors is 1 epochs old"):
        train_member(plan(), dataset, tmp_path, Watcher())


@pytest.mark.parametrize("content", [b'{"epoch": 1', b"\xff"])
def test_damaged_metrics_are_refused(dataset: Dataset, tmp_path: Path, content: bytes) -> None:
    damage(tmp_path, dataset)
    (tmp_path / METRICS_FILE).write_bytes(content)
    with pytest.raises(RunError, match=r"metrics.jsonl is damaged"):
        train_member(plan(), dataset, tmp_path, Watcher())


@pytest.mark.parametrize("metadata", [{"epochs_done": "1"}, {}])
def test_a_state_of_something_else_is_refused(dataset: Dataset, tmp_path: Path, metadata: dict[str, str]) -> None:
    damage(tmp_path, dataset)
    save_tensors(tmp_path / STATE_FILE, {"network.x": torch.zeros(1)}, metadata)
    with pytest.raises(CheckpointError, match=r"state.safetensors is not the state of this member"):
        train_member(plan(), dataset, tmp_path, Watcher())


def test_a_finished_member_is_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    train_member(plan(), dataset, tmp_path, Watcher())
    before = (tmp_path / CHECKPOINT_FILE).stat().st_mtime_ns
    train_member(plan(), dataset, tmp_path, Watcher(stop_at_step=1))
    assert (tmp_path / CHECKPOINT_FILE).stat().st_mtime_ns == before


def test_a_loss_that_is_no_number_stops_the_member(dataset: Dataset, tmp_path: Path) -> None:
    wild = Recipe(name="wild", architectures=("cnn",), epochs=50, batch_images=16, learning_rate=1e30)
    with pytest.raises(DivergenceError, match=r"the loss became (nan|inf) in epoch \d+, step \d+"):
        train_member(plan(recipe=wild), dataset, tmp_path, Watcher())
    assert not (tmp_path / CHECKPOINT_FILE).exists()


def test_too_few_images_for_a_batch_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="64 training images do not fill one batch of 65"):
        train_member(plan(recipe=RECIPE.model_copy(update={"batch_images": 65})), dataset, tmp_path, Watcher())


def test_golden_losses(dataset: Dataset) -> None:
    """A refactoring of training must not change what it computes: float32, one thread, on the CPU.

    The order in which vectors of 8 and of 16 numbers are added up decides the fourth digit after eight steps.
    """
    vectors = vector_instructions()
    if vectors not in GOLDEN_LOSSES:
        pytest.skip(f"the losses on processors with {vectors} are not known")
    learner = Learner(plan(), dataset)
    losses = [train_epoch(learner, dataset, Watcher()).train_loss for _ in range(2)]
    assert losses == pytest.approx(GOLDEN_LOSSES[vectors], rel=1e-4)


def vector_instructions() -> str:
    """What decides the order of sums: PyTorch's vectors, and whether Intel's library takes as long ones.

    It does on Intel's own processors alone (MKL_CBWR=AVX2 has it take the short ones there too).
    """
    vectors = torch.backends.cpu.get_cpu_capability()
    is_intel = sys.platform == "linux" and "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    return f"{vectors}, MKL too" if vectors == "AVX512" and is_intel else vectors


GOLDEN_LOSSES = {
    "AVX512, MKL too": [0.2629580134525895, 0.0100459327804856],
    "AVX512": [0.2628808571025729, 0.00999869016231969],
    "AVX2": [0.2629446480423212, 0.010038958571385592],
}
"""As they were before losses were added up in a tensor, by the processor's vector instructions."""


def test_weights_that_break_on_an_epochs_last_step_count_as_diverged(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the loss, which is that before the step, is a number still."""

    def broken(_: torch.nn.Module, images: Images) -> torch.Tensor:
        return torch.full((len(images), 2), float("nan"))

    monkeypatch.setattr("training.member.predict", broken)
    with pytest.raises(DivergenceError, match="the weights stopped being numbers in epoch 1"):
        train_member(plan(), dataset, tmp_path, Watcher())
