"""Classify image files from the command line: `python -m serving.client IMAGE...`."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliPositionalArg, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from machine.problems import explain
from serving.channel import MAX_TIMEOUT_SECONDS, Credentials
from serving.client import DEFAULT_TARGET, CallError, Classification, Client, Result
from serving.client.explanation import ALL_CLASSES, explain_verdict

EXIT_FAILED = 1
EXIT_USAGE = 2
BAR_CELLS = 8


class ClientSettings(BaseSettings):
    """Classify image files by a running server and print what the ensemble says."""

    model_config = SettingsConfigDict(
        env_prefix="CONSORT_CLIENT_",
        env_ignore_empty=True,
        frozen=True,
        use_attribute_docstrings=True,
        cli_prog_name="python -m serving.client",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_parse_none_str="none",
    )

    images: CliPositionalArg[list[Path]]
    """PNG, JPEG, WebP or BMP files."""
    explain: bool = False
    """Show every class, every member and the doubt, for each image."""
    target: str = DEFAULT_TARGET
    """Host and port of the server."""
    model: str = ""
    """Name of the model; may be left out where the server has a default."""
    version: int = Field(0, ge=0, le=2**31 - 1)
    """Version of the model; 0 takes the one labelled stable, or else the latest."""
    label: str = ""
    """Label of the version, such as canary, instead of its number."""
    timeout_seconds: float = Field(10.0, gt=0, le=MAX_TIMEOUT_SECONDS, allow_inf_nan=False)
    """Deadline of the call."""
    wait_seconds: float = Field(0.0, ge=0, le=MAX_TIMEOUT_SECONDS, allow_inf_nan=False)
    """How long to wait for a server that is still starting."""
    tls_ca: Path | None = None
    """PEM file of the authorities of the server's certificate; without it, calls go in the clear."""
    tls_certificate: Path | None = None
    """PEM file of a certificate to show, where the server asks for one."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    tls_server_name: str | None = None
    """Name that the server's certificate must be of, where that is not the target's host."""
    token: SecretStr | None = None
    """Bearer token; better set as CONSORT_CLIENT_TOKEN, since other users see a command's flags."""

    @property
    def credentials(self) -> Credentials:
        """What is shown to the server, and what is expected of it."""
        return Credentials(
            tls_ca=self.tls_ca,
            tls_certificate=self.tls_certificate,
            tls_key=self.tls_key,
            tls_server_name=self.tls_server_name,
            token=self.token.get_secret_value() if self.token else None,
        )

    @field_validator("target", "model", "label", mode="before")
    @classmethod
    def _none_is_a_name_too(cls, value: object) -> object:
        return "none" if value is None else value

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> Self:
        _ = self.credentials
        return self


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives the process's exit code."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        print(explain(error), file=sys.stderr)
        return EXIT_USAGE
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    try:
        result = classify(settings)
    except CallError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"{error.filename} cannot be read: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    console = Console()
    if settings.explain:
        for image, found in zip(settings.images, result.classifications, strict=True):
            console.print(explain_verdict(image.name, found), highlight=False)
    else:
        console.print(result_table(settings.images, result))
    console.print(_timing_line(result), highlight=False)
    return 0


def read_settings(arguments: list[str]) -> ClientSettings:
    """Read flags and variables.

    Raises:
        SettingsError: A variable cannot be read.
        ValidationError: A value is not usable.
    """
    flags = CliSettingsSource[ArgumentParser](ClientSettings, parse_args_method=_parse_arguments)
    return ClientSettings(_cli_settings_source=flags(args=arguments))


def _parse_arguments(
    parser: ArgumentParser, arguments: Sequence[str], namespace: Namespace | None = None
) -> Namespace:
    """Files as the one JSON text that pydantic reads them from; it would look for lists and numbers in each."""
    parsed = ArgumentParser.parse_args(parser, arguments, namespace)
    parsed.images = json.dumps(parsed.images)
    return parsed


def classify(settings: ClientSettings) -> Result:
    """Send the images in one call.

    Raises:
        CallError: The server refuses the call or cannot be reached in time.
        OSError: A file cannot be read.
    """
    with Client(settings.target, settings.timeout_seconds, settings.credentials) as client:
        if settings.wait_seconds:
            client.wait_until_ready(settings.wait_seconds)
        return client.classify(
            settings.images,
            model=settings.model,
            version=settings.version,
            label=settings.label,
            top_classes=ALL_CLASSES if settings.explain else 2,
            members=settings.explain,
        )


def result_table(images: list[Path], result: Result) -> Table:
    """One row an image: the class, how sure, who agrees, and the runner-up."""
    table = Table(
        title=f"{result.model_name}, version {result.model_version}", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("image", no_wrap=True)
    for heading in ("class", "probability", "agree", "entropy", "second"):
        table.add_column(heading, no_wrap=True, min_width=len(heading))
    for image, found in zip(images, result.classifications, strict=True):
        second = found.top_classes[-1]
        table.add_row(
            escape(image.name),
            escape(found.label),
            f"{_bar(found.probability)} {found.probability:7.2%}",
            _agreement(found),
            f"{found.entropy:.3f}",
            f"{escape(second.label)} {second.probability:.2%}",
        )
    return table


def _bar(share: float) -> str:
    return ("━" * round(share * BAR_CELLS)).ljust(BAR_CELLS)


def _agreement(found: Classification) -> str:
    return f"{round(found.agreement * found.members_run)} of {found.members_run}"


def _timing_line(result: Result) -> str:
    timing = result.timing
    return (
        f"{len(result.classifications)} images in {timing.total_seconds * 1e3:.1f} ms on the server: "
        f"decode {timing.decode_seconds * 1e3:.1f}, queue {timing.queue_seconds * 1e3:.1f}, "
        f"inference {timing.inference_seconds * 1e3:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
