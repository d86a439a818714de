"""Sessions as Parquet and CSV: exact, whole or not there, and without the memory of a session."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from keepline.capture.archive import export
from keepline.capture.archive.blocks import Block
from keepline.capture.archive.export import export_csv, export_parquet
from keepline.capture.archive.readings import ArchiveReader
from keepline.errors import CaptureError, NoSessionError
from keepline.model import Principal, from_us
from keepline.store import Store
from tests.archived import STORE_ID, SYSTEM, Archived

EXPORTS = pytest.mark.parametrize("write", [export_csv, export_parquet])
AT = 1_772_366_400_000_001  # 2026-03-01T12:00:00.000001Z


@pytest.fixture
def archive(sql_store: Store) -> ArchiveReader:
    return ArchiveReader(sql_store, STORE_ID, principal=SYSTEM)


@pytest.fixture
def mixed(archive: ArchiveReader) -> ArchiveReader:
    """A session with a source of four types of values, and another with a channel of that name."""
    session = Archived(archive.sql_store)
    times = AT + 20_000 * np.arange(3)
    session.add(
        Block(
            times,
            np.array([0, 2, 3]),
            {
                "f": np.array([0.1 + 0.2, np.nan, -np.inf]),
                "n": np.ma.MaskedArray([2**62 + 1, 0, -1], [False, True, False]),
                "b": np.array([True, False, True]),
                "t": ['a "b", c\r\nd', None, ""],
            },
        ),
        Block(np.array([AT + 60_000]), np.array([4]), {"f": np.array([5e-324])}),
        units={"f": "bar", "n": "1"},
    )
    session.add(
        Block(np.array([AT]), np.array([0]), {"f": np.array([7.5]), "é": ["=1+1"]}),
        source="x,y",
    )
    return archive


HEADER = ["source", "seq", "time", "b", "main.f", "n", "t", "x,y.f", "é"]


def test_csv_gives_every_bit_back(mixed: ArchiveReader, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    assert export_csv(mixed, 1, file) == 5
    raw = file.read_bytes()
    assert raw.count(b"\r\n") == 7  # one is in a text
    assert raw.replace(b"\r\n", b"").count(b"\n") == 0
    with file.open(newline="", encoding="utf-8") as lines:
        header, *rows = list(csv.reader(lines, strict=True))
    assert header == HEADER
    assert rows[0] == [
        "main", "0", "2026-03-01T12:00:00.000001Z", "true", "0.30000000000000004",
        str(2**62 + 1), 'a "b", c\r\nd', "", "",
    ]  # fmt: skip
    assert rows[1] == ["main", "2", "2026-03-01T12:00:00.020001Z", "false", *[""] * 5]
    assert rows[2][4:7] == ["-inf", "-1", ""]
    assert float(rows[3][4]) == 5e-324
    assert rows[4] == ["x,y", "0", "2026-03-01T12:00:00.000001Z", *[""] * 4, "7.5", "=1+1"]
    # What is missing is empty, an empty text is a pair of quotes.
    assert b',-1,"",,\r\n' in raw
    assert b'"x,y",0,' in raw


def test_parquet_has_types_units_and_utc(mixed: ArchiveReader, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    assert export_parquet(mixed, "capture:s:1", file) == 5
    table = pq.read_table(file)
    assert table.column_names == HEADER
    assert [str(each) for each in table.schema.types] == [
        "string", "int64", "timestamp[us, tz=UTC]", "bool", "double", "int64", "string", "double",
        "string",
    ]  # fmt: skip
    assert table["main.f"].to_pylist() == [0.1 + 0.2, None, -math.inf, 5e-324, None]
    assert table["n"].to_pylist() == [2**62 + 1, None, -1, None, None]
    assert table["b"].to_pylist() == [True, False, True, None, None]
    assert table["t"].to_pylist() == ['a "b", c\r\nd', None, "", None, None]
    assert table["time"].to_pylist()[1] == from_us(AT + 20_000)
    assert table["source"].to_pylist() == ["main"] * 4 + ["x,y"]
    metadata = table.schema.field("main.f").metadata
    assert (metadata[b"unit"], metadata[b"channel"], metadata[b"source"]) == (b"bar", b"f", b"main")
    about = table.schema.metadata
    assert about[b"keepline.session"] == b"capture:s:1"
    assert about[b"keepline.instrument"] == b"bench"
    assert about[b"keepline.started"] == b"1970-01-01T00:00:00+00:00"


@EXPORTS
def test_a_part_can_be_chosen(mixed: ArchiveReader, tmp_path: Path, write) -> None:
    file = tmp_path / "a"
    start, end = from_us(AT + 20_000), from_us(AT + 60_000)
    assert write(mixed, 1, file, start=start, end=end) == 2
    assert write(mixed, 1, file, sources=["x,y"], overwrite=True) == 1
    if write is export_parquet:
        assert pq.read_table(file).column_names == ["source", "seq", "time", "f", "é"]
    else:
        assert file.read_text().startswith("source,seq,time,f,é\n")
    assert write(mixed, 1, file, sources=[], overwrite=True) == 0


@EXPORTS
def test_nothing_is_overwritten_unasked(mixed: ArchiveReader, tmp_path: Path, write) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"mine")
    with pytest.raises(CaptureError, match="exists already"):
        write(mixed, 1, file)
    assert file.read_bytes() == b"mine"
    write(mixed, 1, file, overwrite=True)
    assert file.stat().st_size > 100
    assert list(tmp_path.glob(".keepline*")) == []


@EXPORTS
def test_a_file_that_appears_meanwhile_stays(mixed: ArchiveReader, tmp_path: Path, write) -> None:
    file = tmp_path / "a"
    with pytest.raises(CaptureError, match="exists already"):
        write(mixed, 1, file, progress=lambda *_: file.write_bytes(b"theirs"))
    assert file.read_bytes() == b"theirs"
    assert list(tmp_path.glob(".keepline*")) == []


class InterruptionError(Exception):
    pass


@EXPORTS
def test_an_interrupted_export_leaves_nothing(mixed: ArchiveReader, tmp_path: Path, write) -> None:
    def interrupt(*_: int) -> None:
        raise InterruptionError

    with pytest.raises(InterruptionError):
        write(mixed, 1, tmp_path / "a", progress=interrupt)
    with pytest.raises(CaptureError, match=r"cannot be written: No such file or directory"):
        write(mixed, 1, tmp_path / "nowhere" / "a")
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith((".k", "a"))] == []


@EXPORTS
def test_progress_ends_with_all(mixed: ArchiveReader, tmp_path: Path, write) -> None:
    told: list[tuple[int, int]] = []
    write(mixed, 1, tmp_path / "a", progress=lambda *each: told.append(each))
    assert [total for _, total in told] == [12] * 3
    assert [done for done, _ in told] == [9, 10, 12]


@EXPORTS
def test_only_who_may_see_a_session_can_export_it(
    archive: ArchiveReader, tmp_path: Path, write
) -> None:
    Archived(archive.sql_store, 2, "secret", "lab")
    ben = ArchiveReader(archive.sql_store, STORE_ID, principal=Principal("ben"))
    with pytest.raises(NoSessionError):
        write(ben, 2, tmp_path / "a")
    assert write(archive, 2, tmp_path / "a") == 0


def test_row_groups_stay_small(
    archive: ArchiveReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_GROUP_ROWS", 250)
    blocks = [
        Block(100 * n + np.arange(100), 100 * n + np.arange(100), {"v": np.arange(100.0)})
        for n in range(10)
    ]
    Archived(archive.sql_store).add(*blocks)
    file = tmp_path / "a.parquet"
    export_parquet(archive, 1, file)
    groups = pq.ParquetFile(file).metadata
    sizes = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
    assert sizes == [300, 300, 300, 100]
    assert pq.read_table(file)["seq"].to_pylist() == list(range(1_000))


PEAK = """
import resource, sys
from pathlib import Path
from keepline.capture.archive import export
from keepline.capture.archive.readings import ArchiveReader
from keepline.model import Principal
from keepline.store import Store
store = Store(f"sqlite:///{sys.argv[1]}")
archive = ArchiveReader(store, "s", principal=Principal.system())
getattr(export, sys.argv[2])(archive, 1, sys.argv[3], overwrite=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
getattr(export, sys.argv[2])(archive, 2, sys.argv[3], overwrite=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_session(archive: ArchiveReader, tmp_path: Path) -> None:
    for number, count in ((1, 20), (2, 120)):
        Archived(archive.sql_store, number).add(
            *(
                Block(
                    np.arange(10_000) + 10_000 * n,
                    np.arange(10_000) + 10_000 * n,
                    {"v": np.random.default_rng(n).integers(0, 9_999, 10_000) / 8},
                )
                for n in range(count)
            )
        )
    file = archive.sql_store.engine.url.database
    for write in (export_csv, export_parquet):
        arguments = [sys.executable, "-c", PEAK, str(file), write.__name__, str(tmp_path / "a")]
        finished = subprocess.run(arguments, capture_output=True, text=True, check=True)
        # A million readings more, of 24 bytes as columns, are 23 MiB.
        assert int(finished.stdout) < 14 * 1024
