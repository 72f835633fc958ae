"""Training one member: a loop over tensors that lie in memory, and its state between epochs on disk.

The randomness of an epoch (order of the images, distortions, dropout) is drawn from the member's seed and the
epoch's number alone. A member stopped after any epoch and resumed therefore ends with the same weights, bit for
bit, as one that was never stopped.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from pydantic import BaseModel, ValidationError

from training.architectures import count_parameters
from training.checkpoint import save_checkpoint
from training.dataset import Dataset, Images
from training.device import saying_what_fails, steps_between_looks
from training.errors import DivergenceError, RecipeError, RunError
from training.evaluation import Figures, measure, predict
from training.files import write_text_whole
from training.learner import Learner, Plan, Tally, train_step
from training.recipe import Recipe

CHECKPOINT_FILE = "checkpoint.safetensors"
METRICS_FILE = "metrics.jsonl"
STATE_FILE = "state.safetensors"
DIVERGED_FILE = "diverged.txt"
LOCK_SECONDS = 30.0
MAX_EPOCHS = 100_000


class EpochMetrics(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What one epoch of one member came to; one line of `metrics.jsonl`."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    """At the epoch's last step."""
    train_loss: float
    """Mean cross-entropy over the epoch's distorted images while learning, in nats."""
    train_accuracy: float
    """Share of the same images that were classified right, likewise while learning."""
    held_out_accuracy: float
    """Of the averaged weights."""
    held_out_nll: float
    """Of the averaged weights, in nats."""
    seconds: float
    """Wall time."""


class Observer(Protocol):
    """Is told how a member's training goes."""

    def step(self, done: int, total: int) -> None:
        """`done` of `total` optimizer steps of the member are behind it."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """An epoch is finished, and safe on disk."""


def require_trainable(plan: Plan, dataset: Dataset) -> None:
    """Find out before anything is written whether a plan fits the data.

    Raises:
        RecipeError: The recipe names no architecture, or its batches or its network do not fit the images.
    """
    steps_an_epoch(dataset.train, plan.recipe)
    plan.header(dataset).build()


def bytes_on_disk(plan: Plan, dataset: Dataset) -> int:
    """About how much a member needs while it learns: weights, their average and two moments, old and new file."""
    return 2 * 4 * 4 * count_parameters(plan.header(dataset).build())


def train_member(plan: Plan, dataset: Dataset, folder: Path, observer: Observer) -> None:
    """Train a member from where `folder` has it (nowhere, some epoch, the end) to its checkpoint.

    Args:
        plan: What to train.
        dataset: Its `train` part teaches, its `held_out` part is measured after each epoch.
        folder: Of this member alone.
        observer: Is told of steps and epochs.

    Raises:
        CheckpointError: The state in `folder` is damaged.
        DeviceError: The device of the plan is not there, or has not memory enough.
        DivergenceError: The loss became infinite or no number, now or when this member was last trained.
        RunError: The metrics in `folder` are damaged or do not belong to its state, or another process trains
            this member.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        if (folder / CHECKPOINT_FILE).exists():
            return
        if (folder / DIVERGED_FILE).exists():
            raise DivergenceError((folder / DIVERGED_FILE).read_text(encoding="utf-8"))
        try:
            with saying_what_fails(
                f"member {plan.member} beside what it holds",
                "--resume the run with fewer --processes, or begin another with a smaller --batch-images or "
                "--image-side",
            ):
                _train_to_checkpoint(plan, dataset, folder, observer)
        except DivergenceError as error:
            write_text_whole(folder / DIVERGED_FILE, str(error))
            raise


def _train_to_checkpoint(plan: Plan, dataset: Dataset, folder: Path, observer: Observer) -> None:
    learner = Learner(plan, dataset)
    dataset = dataset.on(learner.device)
    if (folder / STATE_FILE).exists():
        learner.load(folder / STATE_FILE)
    metrics = read_metrics(folder)[: learner.epochs_done]
    if len(metrics) < learner.epochs_done:
        raise RunError(
            f"{folder / METRICS_FILE} has {len(metrics)} epochs, but {STATE_FILE} is {learner.epochs_done} epochs "
            f"old; remove {folder} to train this member again"
        )
    while learner.epochs_done < plan.recipe.epochs:
        metrics.append(train_epoch(learner, dataset, observer))
        # Metrics first: a crash in between leaves a line too many, which the slice above drops.
        lines = "".join(line.model_dump_json() + "\n" for line in metrics)
        write_text_whole(folder / METRICS_FILE, lines)
        learner.save(folder / STATE_FILE)
        observer.epoch(metrics[-1])
    save_checkpoint(folder / CHECKPOINT_FILE, learner.average.network, learner.header)
    (folder / STATE_FILE).unlink()


def train_epoch(learner: Learner, dataset: Dataset, observer: Observer) -> EpochMetrics:
    """One pass over the training images and a look at the held-out ones; both lie on the learner's device.

    Raises:
        DivergenceError: The loss or the weights stopped being numbers.
        RecipeError: There are fewer training images than a batch has.
    """
    started = time.perf_counter()
    recipe = learner.plan.recipe
    steps = steps_an_epoch(dataset.train, recipe)
    generator = _seed_epoch(learner)
    order = torch.randperm(len(dataset.train), generator=generator, device=learner.device)
    tally = Tally(learner.device)
    learner.network.train()
    for step in range(steps):
        done = learner.epochs_done * steps + step + 1
        rate = recipe.learning_rate_at(done / (recipe.epochs * steps))
        batch = dataset.train.select(order[step * recipe.batch_images :][: recipe.batch_images])
        tally.add(*train_step(learner, batch, rate, generator))
        if (step + 1) % steps_between_looks(learner.device) == 0 and not math.isfinite(tally.loss_sum):
            raise DivergenceError(
                f"the loss became {tally.loss_sum} in epoch {learner.epochs_done + 1}, step {step + 1}; "
                f"a learning rate below {recipe.learning_rate} may help"
            )
        observer.step(done, recipe.epochs * steps)
    learner.epochs_done += 1
    held_out = evaluate(learner, dataset.held_out)
    return EpochMetrics(
        epoch=learner.epochs_done,
        learning_rate=rate,
        train_loss=tally.loss_sum / steps,
        train_accuracy=tally.right / (steps * recipe.batch_images),
        held_out_accuracy=held_out.accuracy,
        held_out_nll=held_out.nll,
        seconds=time.perf_counter() - started,
    )


def evaluate(learner: Learner, images: Images) -> Figures:
    """What the average of the weights so far makes of images that lie on the learner's device.

    Raises:
        DivergenceError: The weights stopped being numbers.
    """
    predicted = predict(learner.average.network, images)
    if not predicted.isfinite().all():  # the epoch's last step was the one too many
        raise DivergenceError(f"the weights stopped being numbers in epoch {learner.epochs_done}")
    return measure(predicted, images.labels.cpu())


def steps_an_epoch(images: Images, recipe: Recipe) -> int:
    """Whole batches in one pass over the images.

    Raises:
        RecipeError: Not even one batch fits.
    """
    if len(images) < recipe.batch_images:
        raise RecipeError(
            f"{len(images)} training images do not fill one batch of {recipe.batch_images}; "
            f"name a smaller --batch-images, or add images"
        )
    return len(images) // recipe.batch_images


def read_metrics(folder: Path) -> list[EpochMetrics]:
    """The epochs on record in a member's folder.

    Raises:
        RunError: A line is damaged.
    """
    path = folder / METRICS_FILE
    lines = path.read_bytes().splitlines() if path.exists() else []
    try:
        return [EpochMetrics.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise RunError(f"{path} is damaged; remove its folder to train this member again") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder, such as one that outlives its killed parent for a step."""
    descriptor = os.open(folder, os.O_RDONLY)
    give_up = time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise RunError(
                        f"another process is training in {folder}; wait until it is done, or end it"
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)  # which unlocks it


def _seed_epoch(learner: Learner) -> torch.Generator:
    seed = learner.plan.seed * MAX_EPOCHS + learner.epochs_done
    torch.manual_seed(seed)  # dropout draws from the global generator
    return torch.Generator(learner.device).manual_seed(seed)
