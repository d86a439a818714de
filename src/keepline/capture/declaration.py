"""How a stream is declared: in keepline.toml, or in a TOML file of its own."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType

from keepline.capture.decoders.declared import DeclaredDecoder
from keepline.capture.decoders.options import NAMES_NO_CHANNEL, can_name_a_channel, shown
from keepline.capture.stores.stream_specs import check_source
from keepline.config import ChannelSettings, StreamSettings, first_mistake
from keepline.errors import CaptureError, ConfigError, DecodeError, PluginError
from keepline.model import MAX_STEP_US, Channel, StreamSpec, TickClock


def read_declaration(path: Path) -> StreamSettings:
    """Return the declaration in a TOML file, which has the keys of a [streams.NAME].

    Raises ConfigError with the place of the first mistake.
    """
    try:
        return StreamSettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no TOML file: it is not UTF-8 text") from error
    except ValueError as error:  # no TOML, or not these keys
        raise ConfigError(f"{path}: {first_mistake(error)}") from None


def stream_spec(settings: StreamSettings) -> StreamSpec:
    """Return a declared stream as the capture store and the archive know it.

    The decoder is made once, so that options that it cannot use are refused now and not when
    the first messages are archived. Where no channels or no clock are declared, those that the
    decoder knows by itself are taken.

    Raises:
        ConfigError: the source, the step, a channel, the clock or an option is not valid, or
            the decoder is not installed.
    """
    try:
        check_source(settings.source)
        spec = StreamSpec(
            source=settings.source,
            decoder=settings.decoder,
            options=MappingProxyType(deepcopy(settings.options)),
            step_us=_step_us(settings.step_s),
            channels=tuple(map(_channel, settings.channels)),
            clock=None if settings.clock is None else TickClock(**settings.clock.model_dump()),
        )
        json.dumps(settings.options, allow_nan=False)
        decoder = DeclaredDecoder(spec, {})
        return dataclasses.replace(
            spec,
            channels=spec.channels or decoder.channels,
            clock=spec.clock or decoder.clock,
        )
    except (CaptureError, DecodeError, PluginError) as error:
        raise ConfigError(f"{_place(settings)}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{_place(settings)}: {first_mistake(error)}") from error
    except TypeError as error:
        raise ConfigError(
            f"{_place(settings)}: the options have to be texts, numbers, truths, lists and tables"
        ) from error


def _place(settings: StreamSettings) -> str:
    return f"the stream {settings.instrument}/{settings.source}"


def _step_us(step_s: float | None) -> int | None:
    if step_s is None:
        return None
    if not math.isfinite(step_s) or not 1e-6 <= step_s <= MAX_STEP_US / 1e6:
        raise ValueError("step_s has to be 1 microsecond to 100 years, in seconds")
    return round(step_s * 1e6)


def _channel(settings: ChannelSettings) -> Channel:
    if not can_name_a_channel(settings.name):
        raise ValueError(f"{shown(settings.name)} {NAMES_NO_CHANNEL}")
    return Channel(settings.name, settings.dtype, settings.unit)
