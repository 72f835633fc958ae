"""Settings of a process, from flags, environment variables and a TOML file, and what is said of bad ones."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource
from pydantic_settings.exceptions import SettingsError as UnknownFlag

from machine.problems import explain

S = TypeVar("S", bound=BaseSettings)


class UnusableSettings(Exception):
    """A setting is unknown or has no usable value, or the file of settings cannot be read."""


class ConfiguredSettings(BaseSettings):
    """Flags over environment variables over the file that the setting `config` names over defaults."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come before all of these."""
        return init_settings, _Environment(settings_cls), _ConfigFile(settings_cls)


def resolve(settings_class: type[S], arguments: list[str]) -> S:
    """Read the settings.

    Raises:
        UnusableSettings: They cannot be; the message names all that is wrong.
    """
    try:
        return settings_class(_cli_parse_args=arguments)
    except ValidationError as error:
        raise UnusableSettings(explain(error)) from error
    except UnknownFlag as error:
        program = settings_class.model_config["cli_prog_name"]
        raise UnusableSettings(f"{error}; see {program} --help") from error


class _Environment(EnvSettingsSource):
    """What environment variables say of settings that no flag names: values that are tables would be merged."""

    def __call__(self) -> dict[str, Any]:
        return _unnamed(super().__call__(), self.current_state)


class _ConfigFile(PydanticBaseSettingsSource):
    """What the file says of settings that nothing else names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Unused: the file is read as a whole."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        try:
            return _unnamed(tomllib.loads(Path(path).read_text(encoding="utf-8")), self.current_state)
        except OSError as error:
            raise UnusableSettings(f"config file {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UnusableSettings(f"config file {path} is no TOML: {error}") from error


def _unnamed(said: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in before}
