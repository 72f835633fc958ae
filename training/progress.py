"""Progress on a terminal as bars, elsewhere as one plain line an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.launch import Job
from training.member import EpochMetrics


class Progress:
    """Shows members as they learn, several at a time; a `Gathering`."""

    def __init__(self, console: Console, titles: Mapping[Job, str]) -> None:
        self.console = console
        self.titles = titles
        self._bars = rich.progress.Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[Job, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def step(self, job: Job, done: int, total: int) -> None:
        """Move the member's bar."""
        if job not in self._tasks:
            self._tasks[job] = self._bars.add_task(self.titles[job], figures="")
        self._bars.update(self._tasks[job], completed=done, total=total)

    def epoch(self, job: Job, metrics: EpochMetrics) -> None:
        """Show what the epoch came to."""
        figures = (
            f"epoch {metrics.epoch}: loss {metrics.train_loss:.4f}, "
            f"train {metrics.train_accuracy:.2%}, held-out {metrics.held_out_accuracy:.2%}"
        )
        self._bars.update(self._tasks[job], figures=figures)
        if not self.console.is_terminal:
            line = f"{self.titles[job]}, {figures}, {metrics.seconds:.1f} s"
            self.console.print(line, soft_wrap=True, highlight=False)
