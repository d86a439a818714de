"""The options of a decoder, checked before its first message comes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

from keepline.capture.decoders.decoder import MAX_CHANNELS, MAX_NAME_BYTES
from keepline.config import first_mistake
from keepline.errors import DecodeError
from keepline.model import DType, StreamSpec


class Options(BaseModel):
    """The options of one decoder, as a declaration in TOML or JSON has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_Kind = TypeVar("_Kind", bound=Options)

#: So many names are told one by one.
_TOLD = 8

#: What is said of a name that no channel can have.
NAMES_NO_CHANNEL = (
    f"cannot name a channel: 1 to {MAX_NAME_BYTES:,} bytes in UTF-8 that can be printed"
)


def read_options(kind: type[_Kind], spec: StreamSpec) -> _Kind:
    """Return the options of a stream; raises DecodeError with the place of the first mistake."""
    try:
        return kind.model_validate(dict(spec.options))
    except pydantic.ValidationError as error:
        raise DecodeError(
            f"the options of the decoder {spec.decoder!r} are not valid: {first_mistake(error)}"
        ) from None


def can_name_a_channel(name: object) -> bool:
    """Return whether a channel can be called so: 1 to 1,000 bytes that can be printed.

    Databases take neither NUL nor half a surrogate pair in a text.
    """
    return (
        isinstance(name, str)
        and name != ""
        and name.isprintable()
        and len(name.encode()) <= MAX_NAME_BYTES
    )


def shown(name: object) -> str:
    """Return a name as an error tells it: cut when it is long."""
    return repr(name if not isinstance(name, str) or len(name) <= 60 else name[:60] + "...")


def check_channels(spec: StreamSpec, names: Iterable[str]) -> None:
    """Check the fixed channels of a decoder, `names`, against those that a stream declares.

    Raises DecodeError for a name that no channel can have, one twice, more channels than a
    stream can have, and a declared channel that is none of them.
    """
    seen: set[str] = set()
    for name in names:
        if not can_name_a_channel(name):
            raise DecodeError(f"{shown(name)} {NAMES_NO_CHANNEL}")
        if name in seen:
            raise DecodeError(f"the channel {name!r} is there twice")
        seen.add(name)
    if len(seen) > MAX_CHANNELS:
        raise DecodeError(f"more channels than the {MAX_CHANNELS:,} that a stream can have")
    for channel in spec.channels:
        if channel.name not in seen:
            raise DecodeError(
                f"the declared channel {shown(channel.name)} is not in the messages; "
                + _known(channel.name, sorted(seen))
            )


def _known(name: str, names: list[str]) -> str:
    """Return which channels there are: those like `name` when they are too many to tell."""
    if len(names) <= _TOLD:
        return f"there are: {', '.join(names)}"
    near = get_close_matches(name, names) or names[:3]
    return f"there are {len(names):,}, such as {', '.join(near)}"


def declared_types(spec: StreamSpec, known: Mapping[str, DType]) -> dict[str, DType]:
    """Return the types that are fixed before the first message."""
    types: dict[str, DType] = {channel.name: channel.dtype for channel in spec.channels}
    types.update(known)
    return types
