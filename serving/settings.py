"""The server's settings: flags over environment variables over a TOML file over the defaults below."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from machine.settings import UnusableSettings, resolve
from serving.errors import SettingsError
from serving.security.settings import SecuritySettings

PREFIX = "CONSORT_"
OTHER_PREFIXES = ("CONSORT_CLIENT_", "CONSORT_EXPLORER_")
"""Of the project's other commands."""
Provider = Literal["cpu", "openvino", "openvino-bfloat16", "cuda"]


class ServerSettings(SecuritySettings):
    """Serve a folder of bundles. Options are also environment variables, CONSORT_..., and keys in --config."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # as compose files write a variable that is not set
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_prog_name="python -m serving",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_parse_none_str="none",
        cli_implicit_flags=True,
        cli_exit_on_error=False,
    )

    models: Path = Path("models")
    """Folder of bundles, <name>/<version>/ each."""
    watch_seconds: float = Field(5.0, ge=0, le=86_400, allow_inf_nan=False)
    """How often the folder is looked at for versions and labels that came or went; 0 for never."""
    latest_versions: int = Field(1, ge=1)
    """How many versions of each model are served: the highest so many, and those that a label names."""
    pinned_versions: dict[str, tuple[Annotated[int, Field(ge=1, le=2**31 - 1)], ...]] = Field(default_factory=dict)
    """Versions to serve of models named here, whatever else is in the folder: {"mnist": [1, 3]}."""
    canary_share: float = Field(0.0, ge=0, le=1)
    """Share of the calls that name neither version nor label which the version labelled canary answers."""
    shadow_share: float = Field(0.0, ge=0, le=1)
    """Share of the calls to a model's default version which the version labelled canary is run on as well, where
    cores are free, to count how far both agree."""
    strict_start: bool = True
    """Whether one bundle that is refused stops the start; if not, the server starts with those that are good."""
    unload_removed: bool = False
    """Whether a model is unloaded when its last version is removed from the folder; if not, it is served on."""
    model_control: bool = False
    """Whether clients may list, load and unload models."""
    default_model: str | None = None
    """Model that answers calls that name none; by default such calls need that just one is served at the start."""
    host: str = "0.0.0.0"  # noqa: S104 - a server in a container must be reachable from outside it
    """Address to listen on."""
    grpc_port: int = Field(8001, ge=0, le=65535)
    """Port for gRPC; 0 takes a free one."""
    metrics_port: int = Field(8002, ge=0, le=65535)
    """Port for Prometheus metrics over HTTP, at /metrics; 0 takes a free one."""
    provider: Literal[Provider, "auto"] = "cpu"
    """onnxruntime execution provider; the server does not start if it is not active. auto times those that are
    installed and takes the fastest that passes the bundle's self-check, so none that rounds to bfloat16."""
    threads: int | None = Field(None, ge=1, le=1024)
    """Inference threads of all workers together; by default as many as the CPU quota and affinity allow."""
    workers: int | None = Field(None, ge=1, le=256)
    """Processes that serve, all on the same port, on Linux; by default one for every 4 inference threads, at least
    one, and just one with model_control. Every limit holds for each of them."""
    max_call_images: int = Field(256, ge=1)
    """Most images in one call."""
    max_call_bytes: int = Field(32 * 2**20, ge=2**10, le=2**31 - 1)
    """Largest request, in bytes."""
    max_image_pixels: int = Field(25_000_000, ge=1)
    """Largest image file, in pixels once decoded; a core that decodes needs up to 12 bytes of memory for each."""
    max_batch_images: int = Field(64, ge=1)
    """Most images of waiting calls that run together; a larger call runs alone."""
    max_delay_seconds: float = Field(0.0, ge=0, le=10, allow_inf_nan=False)
    """How long a call may wait for company while a core is free; more images a batch, a later answer."""
    max_queue_images: int = Field(2048, ge=1)
    """Most images that may wait for a version of a model; calls beyond are refused at once."""
    max_concurrent_calls: int = Field(128, ge=1)
    """Most calls of Classify and ModelInfer in progress, together; calls beyond are refused at once."""
    grace_seconds: float = Field(20.0, ge=0, le=86_400, allow_inf_nan=False)
    """How long calls in progress may take to finish after SIGTERM."""
    drain_delay_seconds: float = Field(0.0, ge=0, le=86_400, allow_inf_nan=False)
    """How long calls are still taken after SIGTERM, while the health already says NOT_SERVING; as long as load
    balancers take to hear it. Comes before grace_seconds."""
    reflection: bool | None = None
    """Whether clients may ask for the services' descriptions; by default where anybody may call."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """auto writes text to a terminal and JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe event that is logged."""
    access_log_share: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    """Share of the calls that end with OK, chosen at random, of which the log tells in a line each."""
    access_log_error_share: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    """The same of calls that end with anything else."""
    trace_endpoint: str | None = Field(None, pattern=r"^https?://[^/]+$")
    """OTLP collector that gets the spans of calls, as http://host:4317, https for TLS; of the extra `tracing`."""
    config: Path | None = None
    """TOML file of settings."""

    @model_validator(mode="after")
    def _a_call_fits_the_queue(self) -> Self:
        if self.max_call_images > self.max_queue_images:
            raise ValueError(
                f"max_call_images {self.max_call_images} exceeds max_queue_images {self.max_queue_images}: "
                "the largest calls could never be queued"
            )
        return self

    @model_validator(mode="after")
    def _workers_can_do_what_is_asked(self) -> Self:
        workers = self.workers or 1
        if workers > 1 and sys.platform != "linux":
            raise ValueError(f"workers {workers} need Linux, which spreads connections over them")
        if workers > 1 and self.model_control:
            raise ValueError(f"model_control needs workers 1, not {workers}: a call would reach one of them alone")
        if self.threads is not None and workers > self.threads:
            raise ValueError(f"workers {workers} exceeds threads {self.threads}: each needs one at least")
        return self

    @model_validator(mode="after")
    def _pinned_models_have_versions(self) -> Self:
        if empty := [name for name, versions in self.pinned_versions.items() if not versions]:
            raise ValueError(f"pinned_versions names no version of {', '.join(empty)}")
        return self


def read_settings(arguments: list[str]) -> ServerSettings:
    """Resolve the settings from flags, environment and file.

    Raises:
        SettingsError: A setting is unknown or has no usable value; the message names all of them.
    """
    try:
        return resolve(ServerSettings, arguments)
    except UnusableSettings as error:
        raise SettingsError(str(error)) from error


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables with the server's prefix that are no setting of it, nor of the project's other commands."""
    known = {PREFIX + name.upper() for name in ServerSettings.model_fields} | {"CONSORT_DATA"}
    ours = (name for name in environment if name.startswith(PREFIX) and not name.startswith(OTHER_PREFIXES))
    return sorted(set(ours) - known)
