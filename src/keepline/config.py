"""The settings of an instance: keepline.toml, overridden by KEEPLINE_* variables.

``KEEPLINE_STORE__URL`` sets ``url`` of ``[store]``, and so on; two underscores go one level
down. Secrets belong in the environment, and never show in a repr.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from keepline.errors import ConfigError, InstanceError

FILE_NAME = "keepline.toml"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSettings(_Part):
    """Where records, logs and the archive are kept."""

    url: SecretStr = SecretStr("sqlite:///keepline.db")


class CaptureSettings(_Part):
    """Where live readings are kept before they are archived; `store` names the kind."""

    store: str = "sqlite"
    path: str = "capture.db"
    level: Literal["stored", "fsynced"] = "stored"
    linger_s: float = Field(default=0.2, gt=0, le=60)


class RecipientSettings(_Part):
    """One recipient of records.

    `record_types` and `groups` choose what it gets; an empty `groups` means records that
    belong to no group, and ``*`` every group.
    """

    transport: str
    path: str | None = None
    url: SecretStr | None = None
    record_types: tuple[str, ...] = ("*",)
    groups: tuple[str, ...] = ()


class Settings(BaseSettings):
    """All settings of one instance."""

    model_config = SettingsConfigDict(
        env_prefix="KEEPLINE_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    store: StoreSettings = StoreSettings()
    capture: CaptureSettings = CaptureSettings()
    recipients: dict[str, RecipientSettings] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


def load(folder: Path) -> Settings:
    """Read the settings of the instance in `folder`.

    Raises InstanceError when there is no keepline.toml, ConfigError with the place of the
    first mistake in it.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        raise InstanceError(f"no {FILE_NAME} in {folder}; `keepline init {folder}` makes one")
    _check_variables()
    try:
        values = TomlConfigSettingsSource(Settings, toml_file=file)()
        return Settings(**values)
    except ValueError as error:
        raise ConfigError(f"{file}: {_first_mistake(error)}") from None
    except OSError as error:
        raise InstanceError(f"{file} cannot be read: {error.strerror}") from error


def _check_variables() -> None:
    """Raise ConfigError for a KEEPLINE_* variable that would be ignored in silence."""
    known = ("INSTANCE", "TEST", *(name.upper() for name in Settings.model_fields))
    for variable in os.environ:
        name = variable.upper().removeprefix("KEEPLINE_")
        if name != variable.upper() and not name.startswith(known):
            parts = ", ".join(f"KEEPLINE_{each.upper()}__*" for each in Settings.model_fields)
            raise ConfigError(f"the variable {variable} means nothing; there are {parts}")


def _first_mistake(error: ValueError) -> str:
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]
