"""The declarations in the how-to guide are valid, and read what it says they read."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from keepline.capture.declaration import read_declaration, stream_spec
from keepline.capture.decoders.declared import DeclaredDecoder
from keepline.model import StreamSpec, TickClock, from_us

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "streams.md"
BLOCK = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
READS = re.compile(r"^reads `([^`]+)`", re.MULTILINE)


def modbus_crc(body: bytes) -> bytes:
    crc = 0xFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return struct.pack("<H", crc)


FRAME = b"\xa5\x5a" + struct.pack(
    ">IQhBB3f", 17, 1_767_225_600_000_000, 2150, 0b0101_0001, 0, 1, -2, 0.5
)

EXPECTED: dict[str, tuple[bytes | None, dict[str, Any]]] = {
    "json": (None, {"temperature": 21.5, "cycles": 3, "door": True}),
    "csv": (
        None,
        {"pressure": 1.013, "valve": True, "shots": 7, "operator": "Ann; night shift"},
    ),
    "influx": (
        None,
        {
            "cpu,host=a,region=eu usage": 12.5,
            "cpu,host=a,region=eu cores": 8,
            "cpu,host=a,region=eu ok": True,
        },
    ),
    "board": (
        b"08750000555500100200300400500000",
        {f"board8_adc_{n}": n for n in range(1, 6)},
    ),
    "struct": (
        FRAME + modbus_crc(FRAME),
        {
            "temperature": 21.5,
            "running": True,
            "mode": 5,
            "axis_1": 1.0,
            "axis_2": -2.0,
            "axis_3": 0.5,
        },
    ),
}


def declarations() -> list[str]:
    return BLOCK.findall(GUIDE.read_text(encoding="utf-8"))


def declared(decoder: str, folder: Path) -> StreamSpec:
    (text,) = [each for each in declarations() if f'"{decoder}"' in each]
    file = folder / "stream.toml"
    file.write_text(text, encoding="utf-8")
    return stream_spec(read_declaration(file))


def test_there_is_an_example_of_every_decoder() -> None:
    found = [re.findall(r'^decoder = "(\w+)"$', text, re.MULTILINE) for text in declarations()]
    assert sorted(found) == sorted([name] for name in EXPECTED)


@pytest.mark.parametrize("text", declarations())
def test_example_is_read_as_the_guide_says(text: str, tmp_path: Path) -> None:
    (decoder,) = re.findall(r'^decoder = "(\w+)"$', text, re.MULTILINE)
    spec = declared(decoder, tmp_path)
    guide = GUIDE.read_text(encoding="utf-8")
    message, expected = EXPECTED[spec.decoder]
    if message is None:
        said = READS.search(guide, guide.index(text))
        assert said is not None
        message = said[1].encode()
    decoded = DeclaredDecoder(spec, {}).decode([message])
    assert decoded.rejected == []
    found = {
        name: column[0] if isinstance(column, list) else column.tolist()[0]
        for name, column in decoded.columns.items()
    }
    assert found == expected
    assert {each.name for each in spec.channels} <= set(expected)
    if decoded.times_us is not None:
        assert from_us(int(decoded.times_us[0])).strftime("%Y-%m") in ("2025-12", "2026-01")


def test_struct_example_has_the_size_and_the_units_that_the_guide_says(tmp_path: Path) -> None:
    spec = declared("struct", tmp_path)
    assert f"messages of {len(FRAME) + 2} bytes" in GUIDE.read_text(encoding="utf-8")
    assert {each.name: each.unit for each in spec.channels}["axis_2"] == "m/s2"


def test_board_example_has_the_clock_of_the_boards(tmp_path: Path) -> None:
    assert declared("board", tmp_path).clock == TickClock(bits=32, tick_us=1000)
