"""Progress on a terminal as bars, elsewhere as one plain line an epoch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from training.evaluation import Figures
from training.launch import Job
from training.member import EpochMetrics
from training.summary import Summary


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


def summary_table(summary: Summary) -> Table:
    """Each member and the ensemble, a row each."""
    table = Table(title="Test images looked at once; held-out images chose the rest", title_justify="left")
    for heading in ("", "held-out", "test", "95 % interval", "NLL", "ECE"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)

    def add(name: str, held_out: Figures, test: Figures) -> None:
        low, high = test.accuracy_interval
        interval = f"{100 * low:.2f} to {100 * high:.2f}"
        row = (f"{held_out.accuracy:.2%}", f"{test.accuracy:.2%}", interval, f"{test.nll:.4f}", f"{test.ece:.4f}")
        table.add_row(name, *row)

    for index, member in enumerate(summary.members, start=1):
        add(f"member {index}", member.held_out, member.test)
    ensemble = summary.ensemble
    table.add_section()
    held_out, test = (
        [getattr(member, part).accuracy for member in summary.members] for part in ("held_out", "test")
    )
    table.add_row("mean member", f"{statistics.mean(held_out):.2%}", f"{statistics.mean(test):.2%}")
    if len(test) > 1:
        spread = [f"{100 * statistics.stdev(accuracies):.2f}" for accuracies in (held_out, test)]
        table.add_row("standard deviation, points", *spread)
    add("average", ensemble.held_out_uncalibrated, ensemble.test_uncalibrated)
    add(f"at temperature {ensemble.temperature:.2f}", ensemble.held_out, ensemble.test)
    table.caption = f"{ensemble.test_agreement:.2%} of the members' votes on test images agree with the average's"
    table.caption_justify = "left"
    return table
