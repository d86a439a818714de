"""Messages that are JSON objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from keepline.capture.decoders.decoder import Decoded
from keepline.capture.decoders.options import declared_types, read_options
from keepline.capture.decoders.row_batch import RowBatch, StampOptions, Stamps
from keepline.capture.decoders.typed_rows import INFINITY, MINUS_INFINITY, TypedRows
from keepline.errors import DecodeError
from keepline.model import DType, StreamSpec


class JsonDecoder:
    """Reads a JSON object a message: channel names with a number, truth, text or null each.

    null, NaN, or a channel that is not there is missing. A declared channel has the type that
    it is declared with; others come as they are met, at any message: all numbers are float64,
    truths bool, texts text. int64 takes whole numbers of its range, however they are written
    (1, 1.0, 1e3); bool takes true, false, 1 and 0. A value that its channel cannot hold
    exactly, a name twice in one object, or a new channel beyond 4,096 in the stream has its
    message rejected.

    Options: see StampOptions.

    Raises:
        DecodeError: the options are not these.
    """

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None:
        self._stamps = Stamps(read_options(StampOptions, spec), spec)
        self._rows = TypedRows(declared_types(spec, known), whole="float64")

    def follow(self, time_us: int) -> None:
        """Take the message before the next one to have had this time; see FollowingDecoder."""
        self._stamps.follow(time_us)

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages."""
        time, tick = self._stamps.time, self._stamps.tick
        batch = RowBatch(messages, times=time is not None, ticks=tick is not None)
        rows: list[dict[str, Any]] = []
        for place, message in enumerate(messages):
            try:
                row = _json_object(message)
                stamp = self._stamps.read(
                    None if time is None else row.pop(time, None),
                    None if tick is None else row.pop(tick, None),
                )
            except DecodeError as error:
                batch.reject(place, str(error))
            else:
                batch.add(place, stamp)
                rows.append(row)
        return batch.decoded(*self._rows.columns(rows))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of a name that comes twice one value would be lost in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DecodeError("a name is there twice")
    return found


#: What the constants of Python's JSON stand for; see TypedRows for its two infinities.
_CONSTANTS = {"NaN": float("nan"), "Infinity": INFINITY, "-Infinity": MINUS_INFINITY}
_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_CONSTANTS.__getitem__)


def _json_object(message: bytes) -> dict[str, Any]:
    try:
        text = message.decode()
        value, end = _JSON.raw_decode(text) if text[:1] == "{" else (None, -1)
        if end != len(text):  # there are spaces around it, or a fault
            value = _JSON.decode(text)
    except UnicodeDecodeError as error:
        raise DecodeError(f"not UTF-8 from byte {error.start} on") from error
    except RecursionError as error:
        raise DecodeError("not JSON: nested too deeply") from error
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DecodeError("not a JSON object")
    return value
