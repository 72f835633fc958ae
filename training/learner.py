"""A network while it learns, and one step of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training.architectures import PixelStatistics
from training.augmentation import Affine, distort, flip_some
from training.averaging import MovingAverage
from training.checkpoint import CheckpointHeader, load_tensors, save_tensors
from training.dataset import Dataset, Images
from training.device import compile_for, find_device, learning_in
from training.errors import CheckpointError
from training.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """What decides, beside the data, what a member becomes.

    Attributes:
        recipe: How to train.
        member: Which member of the ensemble, counted from 1: that decides its network and its distortion.
        seed: Of everything random.
        precision: What convolutions and dense layers compute in while learning; weights stay float32.
        device: Where it learns, as `training.device` names it.
        compiled: Whether the network's passes are compiled for it; that decides the last digits.
    """

    recipe: Recipe
    member: int
    seed: int
    precision: torch.dtype
    device: str = "cpu"
    compiled: bool = False

    @property
    def architecture(self) -> str:
        """The member's network: the recipe's in turn."""
        return self.recipe.architectures[(self.member - 1) % len(self.recipe.architectures)]

    @property
    def affine(self) -> Affine:
        """The distortion of its training images: the recipe's in turn."""
        return self.recipe.affines[(self.member - 1) % len(self.recipe.affines)]

    def header(self, dataset: Dataset) -> CheckpointHeader:
        """How the member's network is built for these images."""
        statistics = PixelStatistics.of(dataset.train.pixels)
        return CheckpointHeader(
            architecture=self.architecture,
            image_shape=dataset.image_shape,
            classes=len(dataset.class_labels),
            pixel_mean=statistics.mean,
            pixel_std=statistics.std,
            strokes=self.recipe.strokes,
            seed=self.seed,
        )


class Learner:
    """A network while it learns: its weights, their moving average, the optimizer, the epochs done.

    Attributes:
        network: Holds the weights.
        forward: What a step calls to get logits: the network, or what it was compiled to.

    Raises:
        DeviceError: The device that it is to learn on is not there.
    """

    def __init__(self, plan: Plan, dataset: Dataset) -> None:
        self.plan = plan
        self.device = find_device(plan.device)
        recipe = plan.recipe
        self.header = plan.header(dataset)
        torch.manual_seed(plan.seed)
        network = self.header.build().to(self.device)  # the same first weights on every device
        # Channels innermost is what bfloat16 convolutions are fastest on. torch's type stubs lack the argument.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.forward = compile_for(self.device, self.network) if plan.compiled else self.network
        self.average = MovingAverage(self.network, recipe.average_decay)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.epochs_done = 0

    def save(self, path: Path) -> None:
        """Write all that the next epoch depends on."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
        save_tensors(path, tensors, {"epochs_done": str(self.epochs_done)})

    def load(self, path: Path) -> None:
        """Take up what `save` wrote.

        Raises:
            CheckpointError: The file is damaged.
        """
        tensors, metadata = load_tensors(path)
        try:
            self.network.load_state_dict(_below("network.", tensors))
            self.average.load_state(_below("average.", tensors))
            optimizer = self.optimizer.state_dict()
            for name, value in _below("optimizer.", tensors).items():
                index, slot = name.split(".")
                # The fused optimizer takes a weight and its moments to lie in memory in the same order.
                laid_out = value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
                optimizer["state"].setdefault(int(index), {})[slot] = laid_out
            self.optimizer.load_state_dict(optimizer)
            self.epochs_done = int(metadata["epochs_done"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path} is not the state of this member: {error}") from error


def train_step(learner: Learner, batch: Images, rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One optimizer step, which nothing waits for.

    Returns:
        The batch's mean loss in nats and how many images were classified right: float32 () and int64 ().
    """
    recipe, precision = learner.plan.recipe, learner.plan.precision
    pixels = distort(batch.pixels.float(), learner.plan.affine, generator)
    if recipe.flip:
        pixels = flip_some(pixels, generator)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    with learning_in(precision, learner.device):
        logits = learner.forward(pixels)
    loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=recipe.label_smoothing)
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    learner.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
    learner.optimizer.step()
    learner.average.follow()
    return loss.detach(), (logits.argmax(dim=1) == batch.labels).sum()


class Tally:
    """What the steps of an epoch come to, added up where they compute; to look at it is to wait for them."""

    def __init__(self, device: torch.device) -> None:
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._right = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, right: Tensor) -> None:
        """Add a step's mean loss in nats and its count of images classified right."""
        self._loss_sum += loss
        self._right += right

    @property
    def loss_sum(self) -> float:
        """No number, or infinite, as soon as one loss was."""
        return self._loss_sum.item()

    @property
    def right(self) -> int:
        """Images classified right."""
        return int(self._right)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
