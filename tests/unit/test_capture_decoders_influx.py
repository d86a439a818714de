"""The decoder of the InfluxDB line protocol."""

from __future__ import annotations

import numpy as np
import pytest

from keepline.capture.decoders.decoder import NO_TIME
from keepline.capture.decoders.influx_lines import InfluxDecoder
from keepline.model import StreamSpec
from tests.decoded import values


def test_influx_values() -> None:
    decoder = InfluxDecoder(StreamSpec(), {})
    decoded = decoder.decode(
        [
            b'cpu,region=eu,host=a usage=0.5,n=3i,ok=t,note="a \\"b\\", \\\\ c=d" 1000002000',
            b"cpu,host=a,region=eu usage=1,n=-9223372036854775808i,ok=FALSE",
            b"cpu usage=-1.5e-3,u=9223372036854775807u  -1 ",
            b'my\\ disk\\,x,p\\=ath=/a\\ b us\\ age=.5,s=""\n',
            b"# a comment",
            b"",
            "température,lieu=été valeur=5.".encode(),
        ]
    )
    assert decoded.rejected == []
    assert decoded.times_us is not None
    assert decoded.times_us.tolist() == [1_000_002, NO_TIME, -1, *[NO_TIME] * 4]
    found = {name: [v for v in column if v is not None] for name, column in values(decoded).items()}
    assert found == {
        "cpu,host=a,region=eu usage": [0.5, 1.0],
        "cpu,host=a,region=eu n": [3, -(2**63)],
        "cpu,host=a,region=eu ok": [True, False],
        "cpu,host=a,region=eu note": ['a "b", \\ c=d'],
        "cpu usage": [-0.0015],
        "cpu u": [2**63 - 1],
        "my\\ disk\\,x,p\\=ath=/a\\ b us\\ age": [0.5],
        "my\\ disk\\,x,p\\=ath=/a\\ b s": [""],
        "température,lieu=été valeur": [5.0],
    }
    assert decoded.columns["cpu u"].dtype == np.int64


def test_influx_times_have_the_declared_precision() -> None:
    for precision, stamp in (
        ("h", 2), ("m", 120), ("s", 7_200), ("ms", 7_200_000), ("us", 7_200_000_000),
        ("ns", 7_200_000_000_999),
    ):  # fmt: skip
        decoder = InfluxDecoder(StreamSpec(options={"precision": precision}), {})
        decoded = decoder.decode([f"m f=1 {stamp}".encode()])
        assert decoded.times_us is not None
        assert decoded.times_us.tolist() == [7_200_000_000]
        late = decoder.decode([b"m f=1 9223372036854775807"])
        assert len(late.rejected) == (precision != "ns")


@pytest.mark.parametrize(
    "bad",
    [
        b"cpu",
        b"cpu ",
        b"cpu usage",
        b"cpu usage=",
        b"cpu =1",
        b"cpu usage=1,",
        b"cpu usage=1,,n=2",
        b"cpu usage=NaN",
        b"cpu usage=inf",
        b"cpu usage=1_0",
        b"cpu usage=0x10",
        b"cpu usage=1e400",
        b"cpu usage=yes",
        b'cpu usage="open',
        b'cpu usage="a"b',
        b"cpu usage=1,usage=2",
        b'cpu note="a",note="b"',
        b"cpu n=9223372036854775808i",
        b"cpu n=18446744073709551615u",
        b"cpu n=-1u",
        b"cpu n=1.5i",
        b"cpu usage=1 now",
        b"cpu usage=1 1.5",
        b"cpu usage=1 1 2",
        b"cpu usage=1 99999999999999999999",
        b"cpu usage=1\ncpu usage=2",
        b",host=a usage=1",
        b"cpu, usage=1",
        b"cpu,host usage=1",
        b"cpu,host= usage=1",
        b"cpu,host=a, usage=1",
        b"cpu,host=a=b usage=1",
        b"cpu,host=a,host=b usage=1",
        b"cpu usage=\xff",
        b"c\0pu usage=1",
        b'cpu note="\0"',
        "cpu usage=\u0661".encode(),
        b"cpu usage=t",
        b"m" * 1_000 + b" usage=1",
    ],
)
def test_bad_influx_line_is_rejected_alone(bad: bytes) -> None:
    decoded = InfluxDecoder(StreamSpec(), {}).decode([b"cpu usage=1", bad, b"cpu usage=2"])
    ((place, raw, reason),) = decoded.rejected
    assert (place, raw) == (1, bad)
    assert 0 < len(reason) < 300
    assert values(decoded) == {"cpu usage": [1.0, 2.0]}
