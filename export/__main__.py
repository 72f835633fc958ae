"""Write a finished run as the next version of a model: `python -m export RUN`."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from export.bundle import export_bundle
from export.errors import ExportError
from export.manifest import Name, explain, read_manifest
from training.errors import TrainingError
from training.run import Run

EXIT_FAILED = 1
EXIT_USAGE = 2


class ExportSettings(BaseSettings):
    """Write the members of a finished run as the next version of a model, proved to compute what was trained."""

    model_config = SettingsConfigDict(
        frozen=True,
        use_attribute_docstrings=True,
        cli_prog_name="python -m export",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_parse_none_str="none",
    )

    run: CliPositionalArg[Path]
    """Folder that python -m training.fit has written."""
    name: Name
    """Of the model; lower-case letters, digits, dots, underscores and dashes."""
    models: Path = Path("models")
    """Folder of all models; the bundle becomes <models>/<name>/<version>."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives the process's exit code."""
    try:
        settings = ExportSettings(_cli_parse_args=sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        print(explain(error), file=sys.stderr)
        return EXIT_USAGE
    try:
        folder = export_bundle(Run.open(settings.run), settings.name, settings.models)
    except (ExportError, TrainingError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_FAILED
    manifest = read_manifest(folder)
    megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    low, high = manifest.test.accuracy_interval
    print(
        f"{folder}: {len(manifest.members)} members, {megabytes:.1f} MB, "
        f"onnxruntime within {manifest.parity.largest_difference:.1e} of torch, "
        f"test accuracy {manifest.test.accuracy:.2%} ({100 * low:.2f} to {100 * high:.2f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
