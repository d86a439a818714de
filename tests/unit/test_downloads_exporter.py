"""Downloads from an instance: pages, rights, manifest, audit, and what goes wrong."""

import hashlib
import json
import resource
import signal
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from python_calamine import CalamineWorkbook

from keepline.downloads import (
    DownloadOptions,
    TaskCollectionExporter,
    XlsxExporter,
    download,
    make_exporter,
)
from keepline.errors import DownloadError, UnknownFormatError, UnknownRecordTypeError
from keepline.model import Principal
from keepline.store.tables.downloads import download as download_table
from keepline.store.tables.downloads import download_record
from tests.delivery_host import Host, host

ANN = Principal("ann", groups=frozenset({"lab"}))
TAKEN_AT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
AT = "2024-02-29T12:30:15.123456Z"
BOOKKEEPING = ["record_key", "subject_no", "revision", "group_name", "finalised"]
FIELDS = ["title", "runs", "mean", "valid", "day", "taken_at", "extra", "scan"]
SCAN = b"\x89PNG\x00"
DAY = date(2024, 2, 29)
REST = {"day": DAY, "scan": SCAN}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as made:
        made.add("a", title="=1+1", runs=2**53 + 1, mean=0.1 + 0.2, valid=True)
        made.add("b", group="lab", taken_at=TAKEN_AT, extra={"y": 1, "x": [None, "é"]}, **REST)
        made.add("c", group="theirs", title="hidden")
        made.add_peak("a", "first", 2.5)
        made.add_peak("c", "first", 7.5)
        yield made


def sheets(path: Path) -> dict[str, list[list[Any]]]:
    book = CalamineWorkbook.from_path(str(path))
    return {name: book.get_sheet_by_name(name).to_python() for name in book.sheet_names}


def test_file_holds_what_the_principal_may_see(world: Host, tmp_path: Path) -> None:
    result = download(directory=tmp_path / "new" / "place", principal=ANN, instance=world.instance)
    found = sheets(result.path)
    told = f"{len(SCAN)} bytes, SHA-256 {hashlib.sha256(SCAN).hexdigest()}"
    assert found["sample"] == [
        [*BOOKKEEPING, *FIELDS],
        ["a", "", 2.0, "", False, "=1+1", str(2**53 + 1), 0.1 + 0.2, True, "", "", "", ""],
        ["b", "", 1.0, "lab", False, "", "", "", "", DAY, AT, '{"x":[null,"é"],"y":1}', told],
    ]
    assert found["sample__peak"] == [["record_key", "name", "height"], ["a", "first", 2.5]]
    assert ["sample", "mean", "real", "mV", ""] in found["_columns"]
    assert ["rec_sample", "mean", 7.0, "DOUBLE", True, ""] in found["_information_schema_columns"]
    assert (result.rows["sample"], result.rows["sample__peak"]) == (2, 1)
    everything = download(directory=tmp_path, instance=world.instance)
    assert everything.rows["sample"] == 3


def test_manifest_describes_the_file(world: Host, tmp_path: Path) -> None:
    result = download(directory=tmp_path / "out", principal=ANN, instance=world.instance)
    body = result.path.read_bytes()
    manifest = json.loads(result.manifest.read_text())
    assert manifest["sha256"] == result.sha256 == hashlib.sha256(body).hexdigest()
    assert manifest["size_bytes"] == result.size_bytes == len(body)
    assert (manifest["file"], manifest["made_by"]) == (result.path.name, "ann")
    assert manifest["options"]["record_types"] == ["*"]
    pages = {each["name"]: each for each in manifest["pages"]}
    assert (pages["sample"]["rows"], pages["sample"]["parts"]) == (2, ["sample"])
    mean = next(each for each in pages["sample"]["columns"] if each["name"] == "mean")
    assert mean == {"name": "mean", "type": "real", "unit": "mV", "comment": ""}
    assert sorted(tmp_path.joinpath("out").iterdir()) == sorted([result.path, result.manifest])
    assert result.path.stat().st_mode & 0o077 == 0


def test_what_was_taken_is_audited_record_by_record(world: Host, tmp_path: Path) -> None:
    result = download(directory=tmp_path, principal=ANN, instance=world.instance)
    (row,) = world.select(sa.select(download_table))
    assert (row.who, row.filename, row.sha256) == ("ann", result.path.name, result.sha256)
    assert (row.size_bytes, row.options["viewtype"]) == (result.size_bytes, "xlsx")
    taken = sa.select(download_record.c.record_key, download_record.c.revision)
    assert set(world.select(taken)) == {("a", 2), ("b", 1)}


def test_body_in_memory_is_the_same_file_and_audited_too(world: Host, tmp_path: Path) -> None:
    exporter = make_exporter(DownloadOptions(), principal=ANN, instance=world.instance)
    assert isinstance(exporter, XlsxExporter)
    name, body = exporter.to_file()
    assert name == exporter.get_filename()
    assert name.startswith("keepline_")
    assert name.endswith(".xlsx")
    written = exporter.write(tmp_path / name)
    assert written.path.read_bytes() == body == exporter.get_file_body()
    assert len(world.select(sa.select(download_table))) == 3


def test_options_choose_pages_and_columns(world: Host, tmp_path: Path) -> None:
    bare = DownloadOptions(
        spreadsheet_simplified=True,
        include_information_schema_columns=False,
        include_summary_schema=False,
    )
    result = download(directory=tmp_path, options=bare, instance=world.instance)
    assert {name: rows[0] for name, rows in sheets(result.path).items()} == {
        "sample": ["record_key", "subject_no", *FIELDS]
    }
    by_heading = DownloadOptions(spreadsheet_sort_by_heading=True, record_types=("sample",))
    found = sheets(download(directory=tmp_path, options=by_heading, instance=world.instance).path)
    heading = found["sample"][0]
    assert heading == sorted([*BOOKKEEPING, *FIELDS])
    assert dict(zip(heading, found["sample"][1], strict=True))["title"] == "=1+1"
    assert found["sample__peak"][1] == [2.5, "first", "a"]


def test_many_records_stream_through(world: Host, tmp_path: Path) -> None:
    world.add(*(f"r{number:05}" for number in range(3_000)))
    result = download(directory=tmp_path, instance=world.instance)
    assert result.rows["sample"] == len(sheets(result.path)["sample"]) - 1 == 3_003
    assert len(world.select(sa.select(download_record))) == 3_003


def test_unknown_format_and_record_type_name_what_exists(world: Host, tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match=r"'papyrus'.*xlsx"):
        download(format="papyrus", directory=tmp_path, instance=world.instance)
    with pytest.raises(UnknownFormatError):
        TaskCollectionExporter(DownloadOptions(viewtype="papyrus"), instance=world.instance)
    with pytest.raises(UnknownRecordTypeError, match=r"'none'; there are: sample"):
        download(
            directory=tmp_path,
            options=DownloadOptions(record_types=("none",)),
            instance=world.instance,
        )


def test_failed_download_leaves_no_file_and_no_audit(world: Host, tmp_path: Path) -> None:
    world.edit("a", title="x" * 40_000)
    out = tmp_path / "out"
    with pytest.raises(DownloadError, match=r"page 'sample', row 1, column 'title'"):
        download(directory=out, instance=world.instance)
    assert list(out.iterdir()) == []
    assert world.select(sa.select(download_table)) == []


def test_place_that_cannot_be_written_is_one_clear_error(world: Host, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="cannot be written: Not a directory"):
        download(directory=tmp_path / "file" / "deep", instance=world.instance)


def test_existing_file_is_kept(world: Host, tmp_path: Path) -> None:
    mine = tmp_path / "mine.xlsx"
    mine.write_text("mine")
    exporter = make_exporter(DownloadOptions(), instance=world.instance)
    with pytest.raises(DownloadError, match="exists"):
        exporter.write(mine)
    assert mine.read_text() == "mine"


def test_full_disk_publishes_nothing(world: Host, tmp_path: Path) -> None:
    world.add(*(f"r{number:05}" for number in range(2_000)), title="x" * 500)
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, hard))
    try:
        with pytest.raises(DownloadError, match="cannot be written: File too large"):
            download(directory=out, instance=world.instance)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(out.iterdir()) == []
    assert world.select(sa.select(download_table)) == []
