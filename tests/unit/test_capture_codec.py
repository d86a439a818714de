"""Blocks and raw messages: what goes in comes out, and damage is noticed."""

import json
import math
import zlib
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from keepline.capture.archive import blocks
from keepline.capture.archive.pieces import Run
from keepline.capture.archive.raw import RAW_CODEC, decode_raw, encode_raw
from keepline.errors import CaptureError

INT64 = st.integers(-(2**63), 2**63 - 1)
DECIMALS = st.integers(-(10**9), 10**9).map(lambda n: n / 1000)
FLOATS = st.floats(allow_nan=False) | DECIMALS | st.integers(-(2**53), 2**53).map(float)


def bits(values: object) -> bytes:
    """Return float64 values as bytes, so that 0.0 and -0.0 differ."""
    return np.asarray(values, dtype="<f8").tobytes()


@given(
    st.lists(
        st.tuples(INT64, INT64, FLOATS | st.just(math.nan), DECIMALS, st.none() | st.text()),
        max_size=50,
    )
)
def test_block_comes_back_exactly(rows: list[tuple[int, int, float, float, str | None]]) -> None:
    times, seqs, mixed, decimals, texts = zip(*rows, strict=True) if rows else ((),) * 5
    block = blocks.Block(
        np.array(times, np.int64),
        np.array(seqs, np.int64),
        {"mixed": np.array(mixed, float), "decimals": np.array(decimals, float), "ü": list(texts)},
    )
    again = blocks.decode(blocks.encode(block))
    assert_array_equal(again.times_us, block.times_us)
    assert_array_equal(again.seqs, block.seqs)
    assert bits(again.columns["mixed"]) == bits(mixed)
    assert bits(again.columns["decimals"]) == bits(decimals)
    assert again.columns["ü"] == list(texts)
    assert list(again.columns) == ["mixed", "decimals", "ü"]


@pytest.mark.parametrize(
    "values",
    [
        [0.0, -0.0],
        [math.inf, -math.inf, 1.5],
        [5e-324, 1.7976931348623157e308],
        [0.1, 0.2, 0.30000000000000004],
        [2.0**53, 2.0**53 + 2],
    ],
)
def test_odd_floats_come_back_exactly(values: list[float]) -> None:
    whole = np.arange(len(values), dtype=np.int64)
    block = blocks.Block(whole, whole, {"x": np.array(values)})
    assert bits(blocks.decode(blocks.encode(block)).columns["x"]) == bits(values)


def test_one_channel_can_be_read_alone() -> None:
    whole = np.arange(2, dtype=np.int64)
    block = blocks.Block(whole, whole, {"a": np.array([1.0, 2.0]), "b": ["x", None]})
    assert list(blocks.decode(blocks.encode(block), channel="b").columns) == ["b"]


def test_real_sensor_data_takes_few_bytes() -> None:
    random = np.random.default_rng(1)
    n = 10_000
    sensor = np.round(20 + np.cumsum(random.normal(0, 0.01, n)), 3)
    times = np.arange(n, dtype=np.int64) * 20_000
    payload = blocks.encode(blocks.Block(times, np.arange(n), {"t": sensor}))
    assert len(payload) <= 2 * n


def test_block_of_an_unknown_codec_is_refused() -> None:
    with pytest.raises(CaptureError, match="kl9"):
        blocks.decode(b"", "kl9")


def masked(values: list[int | None], dtype: type) -> np.ma.MaskedArray:
    """Return a column in which None is missing."""
    mask = [value is None for value in values]
    return np.ma.MaskedArray([value or 0 for value in values], mask=mask, dtype=dtype)


@given(
    st.lists(
        st.tuples(INT64, INT64, st.none() | INT64, st.booleans(), st.none() | st.booleans()),
        min_size=1,
        max_size=50,
    )
)
def test_typed_columns_and_ticks_come_back_exactly(rows: list[tuple[Any, ...]]) -> None:
    whole, ticks, sparse, truths, sparse_truths = map(list, zip(*rows, strict=True))
    columns = {
        "whole": np.array(whole, np.int64),
        "sparse": masked(sparse, np.int64),
        "truths": np.array(truths, np.bool_),
        "sparse truths": masked(sparse_truths, np.bool_),
    }
    block = blocks.Block(np.arange(len(rows)), np.arange(len(rows)), columns, np.array(ticks))
    again = blocks.decode(blocks.encode(block))
    assert again.ticks is not None
    assert_array_equal(again.ticks, ticks)
    for name, column in columns.items():
        found = again.columns[name]
        assert found.dtype == column.dtype
        assert found.tolist() == column.tolist()


def test_many_blocks_at_once_are_encoded_as_singly() -> None:
    random = np.random.default_rng(3)
    many = [
        blocks.Block(
            np.arange(n),
            np.arange(n),
            {
                "f4": random.normal(size=n).astype(np.float32).astype(float),
                "f8": random.normal(size=n),
                "decimal": np.round(random.normal(size=n), 3),
                "whole": random.integers(0, 1 << 40, n),
                "text": ["x"] * n,
            },
        )
        for n in (5, 7, 5)
    ]
    assert blocks.encode_many(many) == [blocks.encode(each) for each in many]


def test_few_odd_values_do_not_make_decimals_long() -> None:
    values = np.round(np.random.default_rng(1).normal(20, 0.1, 1_000), 2)
    times = np.arange(1_000)
    plain = len(blocks.encode(blocks.Block(times, times, {"x": values})))
    values[[3, 500]] = -0.0, math.inf
    odd = blocks.Block(times, times, {"x": values})
    payload = blocks.encode(odd)
    assert bits(blocks.decode(payload).columns["x"]) == bits(values)
    assert len(payload) < plain + 100


def test_float32_values_take_half_of_a_float64() -> None:
    values = np.random.default_rng(1).normal(size=10_000)
    times = np.arange(10_000)
    sizes = [
        len(blocks.encode(blocks.Block(times, times, {"x": each})))
        for each in (values, values.astype(np.float32).astype(float))
    ]
    assert sizes[1] < 0.55 * sizes[0]


def test_one_channel_is_read_though_the_others_are_damaged() -> None:
    times = np.arange(1_000)
    columns = {"a": np.random.default_rng(1).normal(size=1_000), "b": times * 1.5}
    payload = bytearray(blocks.encode(blocks.Block(times, times, columns)))
    payload[len(payload) // 2] ^= 255  # within "a", which is by far the longest
    assert_array_equal(blocks.decode(bytes(payload), channel="b").columns["b"], columns["b"])
    with pytest.raises(CaptureError, match="damaged"):
        blocks.decode(bytes(payload), channel="a")


@pytest.mark.parametrize("codec", ["kl1", "kl2", RAW_CODEC])
def test_damaged_payload_is_one_error_of_one_line(codec: str) -> None:
    random = np.random.default_rng(1)
    times = np.arange(60) * 1_000
    block = blocks.Block(times, np.arange(60), {"x": random.normal(size=60), "t": ["é"] * 60})
    payload = blocks.encode(block)
    run = Run(0, random.bytes(600), np.full(60, 10, np.uint32), times + 1, None)
    whole = {"kl1": KL1, "kl2": payload, RAW_CODEC: encode_raw(run, block)}[codec]

    def decoded(data: bytes) -> object:
        if codec == RAW_CODEC:
            return decode_raw(data, codec, payload, "kl2")
        return blocks.decode(data, codec)

    decoded(whole)
    changed = [bytes(whole[:cut]) for cut in range(0, len(whole), 7)]
    for place in range(0, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= int(random.integers(1, 256))
        changed.append(bytes(data))
    for data in changed:
        with pytest.raises(CaptureError, match="damaged") as caught:
            decoded(data)
        assert "\n" not in str(caught.value)


def test_payload_that_unpacks_to_too_much_is_refused() -> None:
    times = np.arange(3)
    whole = blocks.encode(blocks.Block(times, times, {"t": ["x"] * 3}))
    size = int.from_bytes(whole[:4], "little")
    header = json.loads(zstandard.decompress(whole[4 : 4 + size]))
    bomb = zstandard.compress(bytes(1 << 24))
    for change in ({"bytes": 1 << 40}, {"bytes": 1 << 24, "packed": len(bomb)}):
        header["sections"][-1].update(change)
        head = zstandard.compress(json.dumps(header).encode())
        made = len(head).to_bytes(4, "little") + head + bomb
        with pytest.raises(CaptureError, match="damaged"):
            blocks.decode(made)


#: What the first keepline wrote for times 1000, 2000, seqs 0, 1, x = 1.5 and missing, t = a.
KL1 = zlib.compress(
    (
        head := json.dumps(
            {
                "n": 2,
                "sections": [
                    {"size": 16},
                    {"size": 16},
                    {"name": "x", "as": "decimal", "digits": 1, "mask": 1, "size": 9},
                    {"name": "t", "as": "text", "size": 11},
                ],
            }
        ).encode()
    )
    and b"".join(
        (
            len(head).to_bytes(4, "little"),
            head,
            np.array([2000, 2000], "<u8").view(np.uint8).reshape(2, 8).T.tobytes(),
            np.array([0, 2], "<u8").view(np.uint8).reshape(2, 8).T.tobytes(),
            bytes([0b0100_0000]) + (30).to_bytes(8, "little"),
            b'["a", null]',
        )
    )
)


def test_blocks_of_the_first_codec_are_read() -> None:
    block = blocks.decode(KL1, "kl1")
    assert (block.times_us.tolist(), block.seqs.tolist()) == ([1000, 2000], [0, 1])
    assert_array_equal(block.columns["x"], [1.5, np.nan])
    assert block.columns["t"] == ["a", None]
    assert list(blocks.decode(KL1, "kl1", channel="t").columns) == ["t"]


@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=30) | st.just([b"12345678"] * 40),
    st.booleans(),
    st.booleans(),
)
def test_raw_messages_come_back_exactly(
    messages: list[bytes], ticked: bool, as_in_the_block: bool
) -> None:
    n = len(messages)
    times, ticks = np.arange(n) * 7 + 1, np.arange(n) * 20 if ticked else None
    lengths = np.array(list(map(len, messages)), np.uint32)
    run = Run(5, b"".join(messages), lengths, times, ticks, ((5, -3), (6, 10**15)))
    kept = times if as_in_the_block else times[1:]
    block = blocks.Block(kept, kept, {}, None if ticks is None else ticks[n - len(kept) :])
    again = decode_raw(encode_raw(run, block), RAW_CODEC, blocks.encode(block), blocks.CODEC)
    assert again.messages() == messages
    assert (again.first_seq, again.marks) == (run.first_seq, run.marks)
    assert_array_equal(again.times_us, times)
    assert (again.ticks is None) == (ticks is None)
    if ticks is not None:
        assert_array_equal(again.ticks, ticks)
