"""Choosing what to compute in while learning: by trying it, since processors differ in what they are fast at."""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Literal

import torch
from rich.console import Console

from training.dataset import Dataset
from training.device import saying_what_fails, wait_for
from training.learner import Learner, Plan, train_step

Precision = Literal["float32", "bfloat16"]
TIMED_STEPS = 5
WORTH_IT = 1.2
"""bfloat16 keeps 8 bits of each number's 24; it is taken only where it is that much faster."""


def choose_precision(
    asked: Literal["auto", "float32", "bfloat16"],
    plan: Plan,
    threads: int,
    dataset: Dataset,
    console: Console,
) -> Precision:
    """What was asked for, or whichever is faster here for a member of that plan; says which.

    Raises:
        DeviceError: The GPU has not memory enough to try.
    """
    if asked != "auto":
        return asked
    torch.set_num_threads(threads)
    with saying_what_fails("a batch of images", "choose a smaller --batch-images or --image-side"):
        speedup = measure_speedup(plan, dataset)
    chosen: Precision = "bfloat16" if speedup >= WORTH_IT else "float32"
    console.print(
        f"bfloat16 is {speedup:.1f} times as fast as float32 here; training in {chosen}", highlight=False
    )
    return chosen


def measure_speedup(plan: Plan, dataset: Dataset) -> float:
    """How many times faster a training step is in bfloat16 than in float32, on this machine."""
    return time_step(plan, torch.float32, dataset) / time_step(plan, torch.bfloat16, dataset)


def time_step(plan: Plan, precision: torch.dtype, dataset: Dataset) -> float:
    """Median seconds of a few training steps, after one that warms up; nothing is kept."""
    learner = Learner(dataclasses.replace(plan, precision=precision), dataset)
    generator = torch.Generator(learner.device).manual_seed(0)
    batch = dataset.train.select(torch.arange(plan.recipe.batch_images)).on(learner.device)
    learner.network.train()
    seconds = []
    for _ in range(1 + TIMED_STEPS):
        started = time.perf_counter()
        train_step(learner, batch, plan.recipe.learning_rate, generator)
        wait_for(learner.device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])
