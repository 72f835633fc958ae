"""A verdict as text, for the terminal: every class with its bar, every member, and the doubt in figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from serving.client import Classification

ALL_CLASSES = 2**31
"""Asked for as top classes, it gives as many as there are."""
BAR_CELLS = 30
Members = npt.NDArray[np.float32]
LEVELS = " ▁▂▃▄▅▆▇█"
"""A member's probability as one character, from none to all."""


def explain_verdict(name: str, found: Classification) -> Group:
    """Everything that the ensemble says of one image.

    Args:
        name: Of the image.
        found: The verdict, with all classes ranked and the members' own probabilities.
    """
    members = np.empty((0, len(found.probabilities)), np.float32) if found.members is None else found.members
    labels = {scored.index: scored.label for scored in found.top_classes}
    return Group(
        f"[bold]{escape(name)}: {escape(found.label)}[/bold], {found.probability:.2%}",
        escape(_votes(members, labels)),
        _bars(found, members, labels),
        *_doubt(found, len(labels)),
        "",
    )


def _votes(members: Members, labels: dict[int, str]) -> str:
    """Who says what, such as "5 of 6 members say 3, 1 says 8."."""
    (first, most), *others = Counter(members.argmax(axis=1).tolist()).most_common()
    if not others:
        return f"All {most} members say {labels[first]}."
    rest = ", ".join(f"{count} {'says' if count == 1 else 'say'} {labels[index]}" for index, count in others)
    return f"{most} of {len(members)} members {'says' if most == 1 else 'say'} {labels[first]}, {rest}."


def _bars(found: Classification, members: Members, labels: dict[int, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", no_wrap=True)
    table.add_column("average", no_wrap=True, width=BAR_CELLS)
    table.add_column("", justify="right", no_wrap=True, min_width=7)
    table.add_column("members", no_wrap=True, min_width=2 * len(members) - 1)
    top = found.top_classes[0].index
    for index in sorted(labels):
        share = float(found.probabilities[index])
        table.add_row(
            escape(labels[index]),
            "━" * round(share * BAR_CELLS),
            f"{share:.2%}",
            " ".join(LEVELS[math.ceil(float(one) * (len(LEVELS) - 1) - 0.05)] for one in members[:, index]),
            style="bold" if index == top else None,
        )
    return table


def _doubt(found: Classification, classes: int) -> Iterator[str]:
    agreeing = round(found.agreement * found.members_run)
    yield f"agreement            {agreeing} of {found.members_run}"
    yield f"entropy              {found.entropy:.3f} nats; 0 is sure, {np.log(classes):.2f} no idea"
    yield f"mutual information   {found.mutual_information:.3f} nats; the part that is disagreement"
