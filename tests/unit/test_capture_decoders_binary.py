"""The decoders of binary messages and board frames, and the faults that they name."""

from __future__ import annotations

import binascii
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepline.capture.decoders.board_lines import BoardDecoder, read_header
from keepline.capture.decoders.struct_frames import StructDecoder
from keepline.errors import DecodeError
from keepline.model import Channel, StreamSpec, TickClock
from tests.decoded import listed, values


def test_header_of_a_board_frame() -> None:
    header = read_header(b"057500005555cccccccc00000000")
    assert (header.sender, header.type, header.counter) == (5, 3, 21845)
    assert header.flags == (True, False, True, False, True)
    with pytest.raises(DecodeError, match="27 characters"):
        read_header(b"057500005555cccccccc0000000")


def test_board_frames() -> None:
    decoder = BoardDecoder(StreamSpec(), {})
    wide = [2_000_000, 0, 3_500_000, 2**32 - 1, *range(12)]
    decoded = decoder.decode(
        [
            b"08000000000001002fff800abcd0\r\n",
            b"0900FFFFFFFF0001FFFFABCD0000",
            b"0A0000000002" + struct.pack(">16I", *wide).hex().encode(),
            b"057500005555cccccccc0000000012",
        ]
    )
    assert decoded.rejected == []
    assert decoded.ticks is not None
    assert decoded.ticks.tolist() == [0, 2**32 - 1, 2, 21845]
    assert BoardDecoder.clock == TickClock(bits=32, tick_us=1000)
    found = values(decoded)
    adc = [found[f"board8_adc_{n}"] for n in range(1, 6)]
    assert adc == [[value, None, None, None] for value in (0x010, 0x02F, 0xFF8, 0x00A, 0xBCD)]
    assert [found[f"board9_value_{n}"][1] for n in (1, 2, 3)] == [1, 0xFFFF, 0xABCD]
    assert [found[f"board10_value_{n}"][2] for n in range(1, 17)] == [
        (raw - 2e6) / 1e6 for raw in wide
    ]
    assert found["board5_payload"] == [None, None, None, "cccccccc0000000012"]
    assert len(found) == 5 + 3 + 16 + 1
    assert decoded.columns["board8_adc_1"].dtype == np.int64


def test_header_of_a_board_as_channels() -> None:
    spec = StreamSpec(options={"header": True}, channels=(Channel("board8_adc_1"),))
    decoded = BoardDecoder(spec, {}).decode([b"08750000555500100000000000000"[:28]])
    found = values(decoded)
    assert found["board8_type"] == [3]
    flags = [found[f"board8_flag_{n}"] for n in range(1, 6)]
    assert flags == [[True], [False], [True], [False], [True]]
    assert decoded.columns["board8_adc_1"].dtype == np.float64


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "0 characters"),
        (b"0875000055551111222", "19 characters"),
        (b"08750000555511112222333344445", "odd number"),
        (b"0x750000555511112222333344445555", "hexadecimal"),
        (b"08 50000555511112222333344445555", "hexadecimal"),
        (b"087500005555\xff1112222333344445555", "hexadecimal"),
        (b"0a7500005555" + b"00" * 63, "63 bytes instead of 64"),
        (b"0b75000055551111222233334444", "8 bytes instead of 64"),
    ],
)
def test_short_or_bad_board_line_is_rejected_alone(bad: bytes, reason: str) -> None:
    good = b"08750000555500100000000000000000"
    decoded = BoardDecoder(StreamSpec(), {}).decode([good, bad, good])
    ((place, raw, why),) = decoded.rejected
    assert (place, raw) == (1, bad)
    assert reason in why
    assert values(decoded)["board8_adc_1"] == [1, 1]


ALL_FIELDS: dict[str, Any] = {
    "byte_order": "big",
    "magic": "a55a",
    "checksum": "crc16-modbus",
    "checksum_byte_order": "little",
    "tick": "n",
    "time": "at",
    "time_format": "unix_ms",
    "fields": [
        {"name": "n", "type": "u32"},
        {"name": "at", "type": "u64"},
        {"name": "temperature", "type": "i16", "scale": 0.01, "add": 5, "unit": "degC"},
        {"type": "u8", "count": 3},
        {"type": "u8", "bits": [{"name": "on", "bit": 7}, {"name": "mode", "bit": 2, "count": 3}]},
        {"name": "adc", "type": "u16", "count": 2},
        {"name": "ok", "type": "bool"},
        {"name": "label", "type": "char[6]"},
        {"name": "x", "type": "f32"},
        {"name": "whole", "type": "u64"},
    ],
}


def frame(*, ok: int = 1, label: bytes = b"abc \0z", whole: int = 9, at: int = 1_000) -> bytes:
    body = b"\xa5\x5a" + struct.pack(
        ">IQh3sB2H B6sfQ", 7, at, -150, b"???", 0b1001_0100, 1, 65535, ok, label, 0.5, whole
    )
    crc = 0xFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return body + struct.pack("<H", crc)


def test_struct_of_every_kind_of_field() -> None:
    decoder = StructDecoder(StreamSpec(options=ALL_FIELDS), {})
    decoded = decoder.decode([frame(), frame(label=b"\xc3\xbc\0\0\0\0"), frame(label=b"\0" * 6)])
    assert decoded.rejected == []
    assert decoded.ticks is not None
    assert decoded.times_us is not None
    assert (decoded.ticks.tolist(), decoded.times_us.tolist()) == ([7] * 3, [1_000_000] * 3)
    assert values(decoded) == {
        "temperature": [-150 * 0.01 + 5] * 3,
        "on": [True] * 3,
        "mode": [5] * 3,
        "adc_1": [1] * 3,
        "adc_2": [65535] * 3,
        "ok": [True] * 3,
        "label": ["abc", "ü", None],
        "x": [0.5] * 3,
        "whole": [9] * 3,
    }
    assert {each.name: (each.dtype, each.unit) for each in decoder.channels} == {
        "temperature": ("float64", "degC"),
        "on": ("bool", None),
        "mode": ("int64", None),
        "adc_1": ("int64", None),
        "adc_2": ("int64", None),
        "ok": ("bool", None),
        "label": ("text", None),
        "x": ("float64", None),
        "whole": ("int64", None),
    }


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "0 bytes instead of 45"),
        (frame()[:-1], "44 bytes instead of 45"),
        (frame() + b"\0", "46 bytes instead of 45"),
        (b"\xa5\x5b" + frame()[2:], "does not begin with a55a"),
        (frame()[:-1] + b"\0", "checksum"),
        (frame(ok=2), "ok is neither 0 nor 1"),
        (frame(label=b"\xff" * 6), "label is not UTF-8"),
        (frame(whole=2**63), "whole does not fit into int64"),
        (frame(at=2**64 - 1), "time out of range"),
    ],
)
def test_bad_frame_is_rejected_alone(bad: bytes, reason: str) -> None:
    decoder = StructDecoder(StreamSpec(options=ALL_FIELDS), {})
    decoded = decoder.decode([frame(), bad, frame(whole=3)])
    ((place, raw, why),) = decoded.rejected
    assert (place, raw) == (1, bad)
    assert reason in why
    assert values(decoded)["whole"] == [9, 3]


NUMBERS = [("i8", "b"), ("u8", "B"), ("i16", "h"), ("u16", "H"), ("i32", "i"), ("u32", "I")]

NUMBERS += [("i64", "q"), ("f16", "e"), ("f32", "f"), ("f64", "d")]


@given(st.sampled_from(NUMBERS), st.sampled_from(["little", "big"]), st.binary(max_size=80))
def test_struct_numbers_are_those_that_struct_reads(
    kind: tuple[str, str], order: str, raw: bytes
) -> None:
    code = ("<" if order == "little" else ">") + kind[1]
    spec = StreamSpec(options={"byte_order": order, "fields": [{"name": "v", "type": kind[0]}]})
    size = struct.calcsize(code)
    messages = [raw[at : at + size] for at in range(0, len(raw) - size + 1, size)]
    decoded = StructDecoder(spec, {}).decode(messages)
    read = [struct.unpack(code, message)[0] for message in messages]
    assert listed(decoded.columns["v"]) == [None if value != value else value for value in read]


@pytest.mark.parametrize(
    ("name", "size", "reference"),
    [
        ("crc32", 4, zlib.crc32),
        ("crc16-xmodem", 2, lambda data: binascii.crc_hqx(data, 0)),
        ("crc16-ccitt", 2, lambda data: binascii.crc_hqx(data, 0xFFFF)),
        ("sum8", 1, lambda data: sum(data) % 256),
    ],
)
def test_checksums(name: str, size: int, reference: Any) -> None:
    fields = [{"name": "v", "type": "u8", "count": 9}]
    spec = StreamSpec(options={"fields": fields, "checksum": name})
    bodies = [b"123456789", bytes(range(9)), b"\xff" * 9]
    messages = [body + reference(body).to_bytes(size, "little") for body in bodies]
    assert StructDecoder(spec, {}).decode(messages).good == 3
    wrong = [b"\1" + message[1:] for message in messages]
    assert StructDecoder(spec, {}).decode(wrong).good == 0


def test_struct_whole_number_may_be_declared_as_float64() -> None:
    fields = [{"name": "v", "type": "u64"}, {"name": "w", "type": "i64"}]
    spec = StreamSpec(options={"fields": fields}, channels=(Channel("v"), Channel("w")))
    exact, inexact = 2**53, 2**53 + 1
    decoded = StructDecoder(spec, {}).decode(
        [struct.pack("<Qq", *pair) for pair in ((exact, -exact), (inexact, 0), (0, -inexact))]
    )
    assert values(decoded)["v"] == [float(exact)]
    assert decoded.columns["w"].dtype == np.float64
    assert [place for place, _, _ in decoded.rejected] == [1, 2]
