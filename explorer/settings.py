"""The explorer's settings: flags over environment variables over a TOML file over the defaults below."""

from __future__ import annotations

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from explorer.errors import FolderMissing, SettingsError
from machine.settings import ConfiguredSettings, UnusableSettings, resolve
from serving.client import DEFAULT_TARGET

REPORT_FILE = "report.html"


class ExplorerSettings(ConfiguredSettings):
    """Serve the explorer's page. Options are also variables, CONSORT_EXPLORER_..., and keys in --config."""

    model_config = SettingsConfigDict(
        env_prefix="CONSORT_EXPLORER_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_prog_name="python -m explorer",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
    )

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = Field(8080, ge=0, le=65535)
    """Port of the page; 0 takes a free one."""
    target: str = DEFAULT_TARGET
    """Host and port of the server that answers."""
    metrics_url: str = Field("http://localhost:8002/metrics", pattern=r"^https?://")
    """Where that server's metrics are."""
    models: Path = Path("models")
    """Folder of the bundles that the server serves; layers are shown from it."""
    examples: Path | None = Path("examples/digits")
    """Folder of example images, offered on the page; none offers none."""
    run: Path | None = None
    """Folder of the run that the model was exported from: its report.html, which must be there, is linked, and
    what training.inspect found of its units is shown."""
    timeout_seconds: float = Field(5.0, gt=0, le=60, allow_inf_nan=False)
    """Deadline of every call to the server."""
    max_upload_bytes: int = Field(8 * 2**20, ge=2**10, le=2**28)
    """Largest request, in bytes."""
    max_image_pixels: int = Field(25_000_000, ge=1)
    """Largest picture, in pixels once decoded."""
    max_call_images: int = Field(256, ge=1)
    """Most images that one request may ask about; no more than the server's own setting."""
    requests_per_second: float = Field(50.0, gt=0, allow_inf_nan=False)
    """Requests that one client may make, on average; twice as many at once."""
    config: Path | None = None
    """TOML file of settings."""

    @field_validator("examples", "run", mode="before")
    @classmethod
    def _read_none(cls, value: object) -> object:
        return None if value == "none" else value

    @field_validator("metrics_url")
    @classmethod
    def _require_host_and_port(cls, url: str) -> str:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:  # to ask for a port that is no number is a ValueError
            raise ValueError("the address names no host and port")
        return url

    @model_validator(mode="after")
    def _what_is_named_is_there(self) -> Self:
        for name, folder in (("models", self.models), ("examples", self.examples)):
            if folder is not None and not folder.is_dir():
                raise FolderMissing(f"{name}: {folder} is no folder")
        if self.report is not None and not self.report.is_file():
            raise FolderMissing(f"run: {self.report} is not there")
        return self

    @property
    def report(self) -> Path | None:
        """The run's report."""
        return self.run / REPORT_FILE if self.run else None


def read_settings(arguments: list[str]) -> ExplorerSettings:
    """Resolve the settings from flags, environment and file.

    Raises:
        SettingsError: A setting is unknown or has no usable value; the message names all of them.
        FolderMissing: What a setting names is not there.
    """
    try:
        return resolve(ExplorerSettings, arguments)
    except UnusableSettings as error:
        raise SettingsError(str(error)) from error
