"""Progress on a terminal as bars, elsewhere as one plain line an epoch."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from training.evaluation import Figures
from training.member import EpochMetrics
from training.run import Summary


class RunProgress:
    """Shows the members of a run as they learn; an `Observer` of one member after the other."""

    def __init__(self, console: Console, members: int) -> None:
        self.console = console
        self.members = members
        self.member = 0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin_member(self, member: int) -> None:
        """The steps and epochs to come belong to `member`, counted from 1."""
        self.member = member
        self._task = self._bars.add_task(f"member {member} of {self.members}", total=None, figures="")

    def step(self, done: int, total: int) -> None:
        """Move the member's bar."""
        self._bars.update(self._task, completed=done, total=total)

    def epoch(self, metrics: EpochMetrics) -> None:
        """Show what the epoch came to."""
        figures = (
            f"epoch {metrics.epoch}: loss {metrics.train_loss:.4f}, "
            f"train {metrics.train_accuracy:.2%}, held-out {metrics.held_out_accuracy:.2%}"
        )
        self._bars.update(self._task, figures=figures)
        if not self.console.is_terminal:
            line = f"member {self.member} of {self.members}, {figures}, {metrics.seconds:.1f} s"
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
    add("average", ensemble.held_out_uncalibrated, ensemble.test_uncalibrated)
    add(f"at temperature {ensemble.temperature:.2f}", ensemble.held_out, ensemble.test)
    return table
