"""Declarations of streams: what is wrong with one is said at once, in one line."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from keepline.capture.declaration import read_declaration, stream_spec
from keepline.capture.stores.stream_specs import spec_json, spec_of
from keepline.config import StreamSettings
from keepline.errors import ConfigError
from keepline.model import Channel, StreamSpec, TickClock

STRUCT: dict[str, Any] = {
    "instrument": "rig",
    "decoder": "struct",
    "step_s": 0.02,
    "options": {"fields": [{"name": "v", "type": "i16", "unit": "V"}]},
}


def settings(**changes: Any) -> StreamSettings:
    return StreamSettings.model_validate(deepcopy(STRUCT | changes))


def test_declared_stream_is_complete_and_comes_back_from_a_store() -> None:
    spec = stream_spec(settings(clock={"bits": 16, "tick_us": 10, "step": 2}, source="a-1"))
    assert (spec.source, spec.decoder, spec.step_us) == ("a-1", "struct", 20_000)
    assert spec.channels == (Channel("v", "int64", "V"),)
    assert spec.clock == TickClock(bits=16, tick_us=10, step=2)
    assert spec_of(spec_json(spec)) == spec


def test_declared_channels_and_clock_go_before_those_of_the_decoder() -> None:
    spec = stream_spec(settings(channels=[{"name": "v", "dtype": "float64", "unit": "mV"}]))
    assert spec.channels == (Channel("v", "float64", "mV"),)
    board = stream_spec(StreamSettings(instrument="rig", decoder="board"))
    assert (board.channels, board.clock) == ((), TickClock(bits=32, tick_us=1000))


def test_options_cannot_be_changed_behind_the_declaration() -> None:
    given = settings()
    spec = stream_spec(given)
    given.options["fields"].clear()
    assert len(spec.options["fields"]) == 1
    with pytest.raises(TypeError):
        spec.options["size"] = 3  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step_s": 0}, "step_s"),
        ({"step_s": float("nan")}, "step_s"),
        ({"step_s": 1e12}, "step_s"),
        ({"decoder": "morse"}, "no decoder called 'morse'"),
        ({"source": "a b"}, "cannot name a source"),
        ({"channels": [{"name": "v"}, {"name": "v"}]}, "'v' is declared twice"),
        ({"channels": [{"name": "w"}]}, "'w' is not in the messages; there are: "),
        ({"channels": [{"name": ""}]}, "cannot name a channel"),
        ({"channels": [{"name": "a\nb"}]}, "cannot name a channel"),
        ({"clock": {"bits": 4}}, "8 to 63 bits"),
        ({"options": {"fields": [{"name": "v", "type": "i15"}]}}, "fields.0: there is no type"),
        ({"options": STRUCT["options"] | {"note": float("inf")}}, "JSON"),
        ({"options": STRUCT["options"] | {"note": b""}}, "texts, numbers, truths"),
        ({"options": STRUCT["options"] | {"note": "x"}}, "note"),
    ],
)
def test_faulty_declaration_is_refused_in_one_line(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        stream_spec(settings(**changes))
    text = str(raised.value)
    assert reason in text
    assert text.startswith("the stream rig/")
    assert "\n" not in text


def test_unknown_channel_among_many_names_those_like_it() -> None:
    board = {"instrument": "rig", "decoder": "board", "options": {"header": True}}
    for name, near in (("board3_flag", "such as board3_flag_"), ("zzz", "such as board")):
        with pytest.raises(ConfigError, match=near) as raised:
            stream_spec(StreamSettings(**board, channels=[{"name": name}]))
        assert len(str(raised.value)) < 160


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"instrument =", "Invalid value"),
        (b"decoder = 'json'", "instrument: this key is missing"),
        (b"instrument = 'rig'\ndecodre = 'json'", "decodre"),
        (b"instrument = 'rig'\n[[channels]]\nname = 'a'\ndtype = 'float32'", "channels.0.dtype"),
        (b"instrument = '\xff'", "UTF-8"),
        (None, "No such file"),
    ],
)
def test_faulty_file_is_refused_with_its_name(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "rig.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_declaration(file)
    text = str(raised.value)
    assert str(file) in text
    assert reason in text
    assert "\n" not in text


def test_file_with_only_an_instrument_declares_json(tmp_path: Path) -> None:
    file = tmp_path / "rig.toml"
    file.write_text('instrument = "rig"\n', encoding="utf-8")
    assert stream_spec(read_declaration(file)) == StreamSpec()
