"""The layout of binary messages of one size, as options declare it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from keepline.capture.decoders.checksums import CHECKSUMS, ChecksumName
from keepline.capture.decoders.options import Options
from keepline.errors import DecodeError
from keepline.model import DType

#: The types of numbers, by their name in a declaration.
_NUMBERS = {
    "u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8",
    "i8": "i1", "i16": "i2", "i32": "i4", "i64": "i8",
    "f16": "f2", "f32": "f4", "f64": "f8",
    "bool": "u1",
}  # fmt: skip
_TEXT = re.compile(r"char\[([1-9][0-9]{0,4})\]\Z")

#: A message of a struct has at most so many bytes.
MAX_SIZE = 1024 * 1024

ByteOrder = Literal["little", "big"]


class BitsOptions(Options):
    """Some bits of a whole number; `bit` is the place of the lowest one, from 0."""

    name: str
    bit: int = Field(ge=0, le=63)
    count: int = Field(default=1, ge=1, le=63)
    unit: str | None = None


class FieldOptions(Options):
    """One field of a message, or `count` of the same kind.

    Without `name` and `bits` it is passed over. Without `offset` it follows the one before.
    The value is raw * scale + add.
    """

    name: str | None = None
    type: str
    offset: int | None = Field(default=None, ge=0, le=MAX_SIZE)
    count: int = Field(default=1, ge=1, le=MAX_SIZE)
    scale: float | None = None
    add: float | None = None
    unit: str | None = None
    bits: tuple[BitsOptions, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> FieldOptions:
        text = _TEXT.match(self.type)
        if text is None and self.type not in _NUMBERS:
            raise ValueError(f"there is no type {self.type!r}: {', '.join(_NUMBERS)}, char[n]")
        scaled = self.scale is not None or self.add is not None
        if scaled and (text or self.type == "bool" or self.bits):
            raise ValueError("only numbers have scale and add")
        if self.bits and (not self.type.startswith("u") or self.count > 1 or self.name):
            raise ValueError("bits are taken from one of u8, u16, u32, u64 without name or count")
        width = np.dtype(self.base).itemsize * 8
        if any(each.bit + each.count > width for each in self.bits):
            raise ValueError(f"{self.type} has {width} bits")
        return self

    @property
    def base(self) -> str:
        """Return the numpy type without a byte order."""
        text = _TEXT.match(self.type)
        return f"S{text[1]}" if text else _NUMBERS[self.type]


class StructOptions(Options):
    """The options of the decoder ``struct``."""

    fields: tuple[FieldOptions, ...] = Field(min_length=1)
    byte_order: ByteOrder = "little"
    size: int | None = Field(default=None, ge=1, le=MAX_SIZE)
    magic: Annotated[str, StringConstraints(pattern=r"^([0-9A-Fa-f]{2}){1,64}$")] | None = None
    checksum: ChecksumName | None = None
    checksum_byte_order: ByteOrder | None = None
    tick: str | None = None
    time: str | None = None
    time_format: Literal["unix_s", "unix_ms", "unix_us", "unix_ns"] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> StructOptions:
        if (self.time is None) != (self.time_format is None):
            raise ValueError("time names a field and time_format what it counts; give both or none")
        return self


@dataclass(frozen=True, slots=True)
class Part:
    """Where the values of channels come from: a field of the numpy type, or bits of one.

    It gives one channel for each of `names`; more than one come from an array.
    """

    names: tuple[str, ...]
    key: str
    kind: Literal["float", "whole", "bool", "text", "bit", "bits"]
    scale: float | None = None
    add: float | None = None
    unit: str | None = None
    bit: int = 0
    bits: int = 0

    @property
    def dtype(self) -> DType:
        """Return what the values are where a stream does not declare it."""
        if self.kind == "float" or self.scale is not None or self.add is not None:
            return "float64"
        if self.kind == "text":
            return "text"
        return "bool" if self.kind in ("bool", "bit") else "int64"


class Layout:
    """A declared layout as a numpy type and the parts that its channels come from.

    Raises:
        DecodeError: a field lies beyond the declared size, or `tick` or `time` is not a field
            that can be one.
    """

    def __init__(self, options: StructOptions) -> None:
        order = "<" if options.byte_order == "little" else ">"
        self.magic = bytes.fromhex(options.magic or "")
        keys, formats, offsets = [], [], []
        parts: list[Part] = []
        end = len(self.magic)
        for place, field in enumerate(options.fields):
            base = np.dtype(order + field.base)
            start = end if field.offset is None else field.offset
            end = start + base.itemsize * field.count
            keys.append(f"f{place}")
            formats.append((base, (field.count,)) if field.count > 1 else base)
            offsets.append(start)
            parts.extend(_parts(field, keys[-1]))
        width = CHECKSUMS[options.checksum].width if options.checksum else 0
        content = max(
            start + np.dtype(kind).itemsize for start, kind in zip(offsets, formats, strict=True)
        )
        self.size = options.size or content + width
        if content + width > self.size or self.size > MAX_SIZE:
            raise DecodeError(
                f"the fields and the checksum need {content + width} bytes, not {self.size}"
                if self.size <= MAX_SIZE
                else f"a message has at most {MAX_SIZE} bytes"
            )
        self.dtype = np.dtype(
            {"names": keys, "formats": formats, "offsets": offsets, "itemsize": self.size}
        )
        self.tick = _taken(parts, options.tick, "tick", ("whole",))
        self.time = _taken(parts, options.time, "time", ("whole", "float"))
        self.parts = [part for part in parts if part not in (self.tick, self.time)]


def _parts(field: FieldOptions, key: str) -> Iterator[Part]:
    for each in field.bits:
        kind: Literal["bit", "bits"] = "bit" if each.count == 1 else "bits"
        yield Part((each.name,), key, kind, unit=each.unit, bit=each.bit, bits=each.count)
    if field.name is None:
        return
    names: tuple[str, ...] = (field.name,)
    if field.count > 1:
        names = tuple(f"{field.name}_{number}" for number in range(1, field.count + 1))
    yield Part(names, key, _kind(field), field.scale, field.add, field.unit)


def _kind(field: FieldOptions) -> Literal["float", "whole", "bool", "text"]:
    if field.type == "bool":
        return "bool"
    if field.type.startswith("char"):
        return "text"
    return "float" if field.type.startswith("f") else "whole"


def _taken(parts: list[Part], name: str | None, option: str, kinds: tuple[str, ...]) -> Part | None:
    """Return the part that an option names; raises DecodeError when there is none."""
    if name is None:
        return None
    for part in parts:
        if part.names == (name,) and part.kind in kinds and part.scale is part.add is None:
            return part
    raise DecodeError(f"{option} has to name a field of one plain number, not {name!r}")
