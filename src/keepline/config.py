"""The settings of an instance: keepline.toml, overridden by KEEPLINE_* variables.

``KEEPLINE_STORE__URL`` sets ``url`` of ``[store]``, and so on; two underscores go one level
down. Secrets belong in the environment, and never show in a repr.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from keepline.errors import ConfigError, InstanceError
from keepline.model import DType

FILE_NAME = "keepline.toml"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSettings(_Part):
    """Where records, logs and the archive are kept."""

    url: SecretStr = SecretStr("sqlite:///keepline.db")


class SpoolSettings(_Part):
    """Where a recorder keeps messages on its own disk while the capture store is out of reach.

    At `max_mb` recording blocks, raises, or drops messages and notes the loss.
    """

    path: str = "spool.db"
    max_mb: float = Field(default=1024, gt=0)
    when_full: Literal["block", "raise", "drop"] = "block"


class CaptureSettings(_Part):
    """Where live readings are kept before they are archived; `store` names the kind.

    `path` is that of a file, `url` that of a server; `level` what acknowledged means unless a
    session is started with another one; `trim` removes from the store what the archive holds.
    """

    store: str = "sqlite"
    path: str = "capture.db"
    url: SecretStr | None = None
    prefix: str = Field(default="keepline", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    cluster: bool = False
    level: Literal["accepted", "stored", "fsynced", "archived"] = "stored"
    linger_s: float = Field(default=0.2, gt=0, le=60)
    trim: bool = False
    spool: SpoolSettings | None = None

    @pydantic.model_validator(mode="after")
    def _url_is_of_a_server(self) -> Self:
        if self.store == "sqlite" and self.url is not None:
            raise ValueError('url is for a server: set store = "redis", or take url away')
        return self


class ChannelSettings(_Part):
    """One channel of a stream."""

    name: str
    dtype: DType = "float64"
    unit: str | None = None


class ClockSettings(_Part):
    """A device's own counter; see keepline.model.TickClock."""

    bits: int = 32
    tick_us: float | None = None
    step: int | None = None


class StreamSettings(_Part):
    """One way in: whose messages they are, and how they are read.

    `options` are the decoder's own; `step_s` is the declared time between two messages.
    """

    instrument: str
    source: str = "main"
    decoder: str = "json"
    options: dict[str, Any] = Field(default_factory=dict)
    step_s: float | None = None
    channels: tuple[ChannelSettings, ...] = ()
    clock: ClockSettings | None = None


class IngestSettings(_Part):
    """Limits of the network ways in, and the token that their clients show.

    A client may be silent for `idle_s`, send messages of `max_message_kb`, and requests of
    `max_body_mb`, unpacked. `mqtt_password` is what a broker is told.
    """

    token: SecretStr | None = None
    mqtt_password: SecretStr | None = None
    max_message_kb: int = Field(default=64, ge=1, le=16 * 1024)
    max_body_mb: int = Field(default=16, ge=1, le=1024)
    max_clients: int = Field(default=256, ge=1)
    idle_s: float = Field(default=300, gt=0)


class RecordsSettings(_Part):
    """Where the record types of this instance are declared: a folder of TOML files."""

    types: str = "types"


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
    ingest: IngestSettings = IngestSettings()
    records: RecordsSettings = RecordsSettings()
    streams: dict[str, StreamSettings] = Field(default_factory=dict)
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
    try:
        return parse(file.read_bytes(), str(file))
    except OSError as error:
        raise InstanceError(f"{file} cannot be read: {error.strerror}") from error


def parse(text: bytes, origin: str) -> Settings:
    """Return the settings that a keepline.toml makes, with the environment's over them.

    Raises ConfigError with the place of the first mistake; `origin` stands before it.
    """
    _check_variables()
    try:
        return Settings(**tomllib.loads(text.decode()))
    except ValueError as error:
        raise ConfigError(f"{origin}: {first_mistake(error)}") from None


def _check_variables() -> None:
    """Raise ConfigError for a KEEPLINE_* variable that would be ignored in silence."""
    known = ("INSTANCE", "TEST", *(name.upper() for name in Settings.model_fields))
    for variable in os.environ:
        name = variable.upper().removeprefix("KEEPLINE_")
        if name != variable.upper() and not name.startswith(known):
            parts = ", ".join(f"KEEPLINE_{each.upper()}__*" for each in Settings.model_fields)
            raise ConfigError(f"the variable {variable} means nothing; there are {parts}")


#: What pydantic calls otherwise, in the words of settings.
_PLAINER = {
    "extra_forbidden": "there is no such key here; look for a typing error",
    "missing": "this key is missing",
}


def first_mistake(error: ValueError) -> str:
    """Return one line about what is wrong with settings, first the place where that is known."""
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_input=False)[0]
        message = _PLAINER.get(first["type"], first["msg"].removeprefix("Value error, "))
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), message)))
    return str(error).splitlines()[0]
