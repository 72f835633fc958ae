"""The report of a finished run: one HTML file that needs nothing else, and its plots as PNG files beside it.

`python -m training.report RUN` writes it again, from what the run has on disk: no image is predicted anew.
"""

from __future__ import annotations

import base64
import io
import statistics
import sys
import warnings
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.console import Console

from training.command import COMMAND_CONFIG, Command, run_command
from training.dataset import Dataset
from training.errors import RunError
from training.evaluation import Figures
from training.files import write_bytes_whole, write_text_whole
from training.member import read_metrics
from training.run import PREDICTIONS_FILE, Run
from training.sections import make_sections
from training.sources import load_dataset
from training.summary import Predictions, Summary

REPORT_FILE = "report.html"
PLOTS_FOLDER = "plots"


class ReportSettings(Command):
    """Write the report of a finished run again."""

    model_config = COMMAND_CONFIG | SettingsConfigDict(cli_prog_name="python -m training.report")

    run: CliPositionalArg[Path]
    """Folder that python -m training.fit has finished."""
    data: Path | None = None
    """Where the images are now; by default where the run read them."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives the process's exit code."""
    return run_command(ReportSettings, arguments, report)


def report(settings: ReportSettings, console: Console) -> None:
    """Write the report of the run that the settings name.

    Raises:
        TrainingError: The run is not finished, or the images are not those that it began with.
    """
    run = Run.open(settings.run)
    dataset = load_dataset(settings.data or run.settings.data_path, run.settings.image_side)
    run.require_same(dataset)
    console.print(f"{write_report(run, dataset)}", soft_wrap=True, highlight=False)


def write_report(run: Run, dataset: Dataset) -> Path:
    """Write `report.html` and `plots/*.png` into a finished run's folder; gives the path of the former.

    Raises:
        TrainingError: The run is not finished or damaged.
    """
    summary = run.read_summary()
    predictions = Predictions.load(run.folder / PREDICTIONS_FILE)
    curves = [read_metrics(run.member_folder(member)) for member in run.settings.members]
    if not all(curves):
        raise RunError(f"{run.folder} lacks the metrics of a member")
    sections = make_sections(run, dataset, summary, predictions, curves)
    folder = run.folder / PLOTS_FOLDER
    folder.mkdir(exist_ok=True)
    figures = []
    for section in sections:
        image = b"" if section.plot is None else _png(section.plot)
        if image:
            write_bytes_whole(folder / f"{section.name}.png", image)
        figures.append(
            {
                "heading": section.heading,
                "paragraphs": section.paragraphs,
                "image": base64.b64encode(image).decode(),
            }
        )
    environment = Environment(loader=PackageLoader("training", ""), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("report.html.jinja").render(
        title=f"{len(summary.members)} members on {dataset.name}",
        subtitle=f"Run {run.folder.name}, recipe {run.settings.recipe.name!r}",
        lead=_lead(summary),
        table=_table(summary, dataset.describe_known()),
        figures=figures,
        settings=_settings(run),
    )
    path = run.folder / REPORT_FILE
    write_text_whole(path, html)
    return path


def _lead(summary: Summary) -> str:
    ensemble = summary.ensemble
    accuracies = [member.test.accuracy for member in summary.members]
    spread = f" to {max(accuracies):.2%}" if len(accuracies) > 1 else ""
    low, high = ensemble.test.accuracy_interval
    return (
        f"The average reads {ensemble.test.accuracy:.2%} of {ensemble.test.count:,} test images right "
        f"(95 % interval {100 * low:.2f} to {100 * high:.2f} %); "
        f"its members read {statistics.mean(accuracies):.2%} in the mean, {min(accuracies):.2%}{spread}. "
        f"{ensemble.test_agreement:.2%} of the members' votes agree with the average's."
    )


def _table(summary: Summary, known: str) -> dict[str, object]:
    def row(
        name: str, train: Figures, held_out: Figures, test: Figures, ensemble: bool = False
    ) -> dict[str, object]:
        low, high = test.accuracy_interval
        cells = [f"{part.accuracy:.2%}" for part in (train, held_out, test)]
        cells += [f"{100 * low:.2f} to {100 * high:.2f}", f"{test.nll:.4f}", f"{test.ece:.4f}"]
        return {"cells": [name, *cells], "ensemble": ensemble}

    whole = summary.ensemble
    rows = [
        row(f"member {number}, {member.architecture}", member.train, member.held_out, member.test)
        for number, member in enumerate(summary.members, start=1)
    ]
    rows.append(row("average", whole.train, whole.held_out_uncalibrated, whole.test_uncalibrated, ensemble=True))
    rows.append(
        row(f"at temperature {whole.temperature:.3f}", whole.train, whole.held_out, whole.test, ensemble=True)
    )
    return {
        "headings": ["", "train", "held-out", "test", "95 % interval", "NLL", "ECE"],
        "rows": rows,
        "note": (
            f"Accuracy on {whole.train.count:,} training images as they are, {whole.held_out.count:,} held-out "
            f"and {whole.test.count:,} test images. "
            "Interval, NLL (nats) and ECE (15 bins) are of the test images. "
            "The test images were looked at once, for this; the temperature was fitted on the held-out images. "
            + known
        ),
    }


def _settings(run: Run) -> list[tuple[str, object]]:
    settings = run.settings
    recipe = settings.recipe.model_dump(mode="json", exclude={"stages"} if not settings.recipe.stages else None)
    return [
        *((name, _in_words(value)) for name, value in recipe.items()),
        ("seeds", _in_words(settings.seeds)),
        ("device", settings.device),
        ("precision", settings.precision),
        ("compiled", settings.compiled),
        ("threads of each member", settings.threads),
        ("tools", _in_words(settings.tools)),
    ]


def _in_words(value: object) -> str:
    """Lists and groups of settings without brackets."""
    match value:
        case dict():
            return ", ".join(f"{name} {part}" for name, part in value.items())
        case [{}, *_]:
            return "; ".join(map(_in_words, value))
        case list() | tuple():
            return ", ".join(map(_in_words, value))
    return str(value)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names in scripts that the plots' font has not are boxes there, and words beside them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
