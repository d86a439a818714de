"""An instance with a subject whose strings are planted everywhere, and ways to look for them."""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
import zstandard

from keepline import config
from keepline.app.instance import Instance, init_instance
from keepline.model import Field, Principal, RecordType, SubTable, utc_now
from keepline.records import subjects
from keepline.records.types import apply_type
from keepline.store import quarantine
from keepline.store.tables.declared import record_tables
from keepline.store.tables.downloads import download, download_record
from keepline.store.tables.records import checkin, proposal

ANN = Principal("ann", sees_all=True)

VISIT = RecordType(
    name="visit",
    fields=(Field("note"), Field("extra", "json"), Field("scan", "blob")),
    subtables=(SubTable("part", "part", (Field("remark"),)),),
    subject=True,
    finalised=True,
    reason_required=True,
)

IDENTIFIER = "Pätient-7041"
KEY = "visit of Pätient-7041, the first"

#: What must be nowhere after the erasure.
PLANTED = {
    "identifier": IDENTIFIER,
    "text": "zebra-note-Ω-81",
    "text before": "zebra-note-older-17",
    "json": "zebra-json-é-82",
    "blob": "zebra-blob-83-in-the-scan",
    "sub-key": "zebra-subkey-84",
    "sub-row": "zebra-subrow-85",
    "reason": "zebra-reason-86",
    "quarantine": "zebra-quarantine-87",
    "proposal": "zebra-proposal-88",
    "bundle": "zebra-bundle-89",
}

#: What must stay: it is another subject's.
OTHER = "lion-note-90"

RECIPIENTS = """
[recipients.ledger]
transport = "database"
url = "sqlite:///../ledger.db"
groups = ["*"]

[recipients.files]
transport = "folder"
path = "../outbox"
groups = ["*"]
"""


def plant(folder: Path) -> Instance:
    """Make an instance with two recipients and two subjects; the first one's strings planted."""
    init_instance(folder).close()
    with (folder / config.FILE_NAME).open("a") as settings:
        settings.write(RECIPIENTS)
    instance = Instance(folder, config.load(folder))
    store = instance.store
    apply_type(store, VISIT, ANN)
    tables = record_tables(VISIT).tables
    table, part = tables["rec_visit"], tables["rec_visit__part"]
    with store.write(ANN, reason=PLANTED["reason"]) as connection:
        number = subjects.number(connection, IDENTIFIER)
        other = subjects.number(connection, "other-1")
        connection.execute(
            sa.insert(table).values(
                record_key=KEY,
                subject_no=number,
                note=PLANTED["text before"],
                extra={"a": [PLANTED["json"]]},
                scan=zlib.compress(PLANTED["blob"].encode()),
            )
        )
        connection.execute(
            sa.insert(part).values(
                record_key=KEY, part=PLANTED["sub-key"], remark=PLANTED["sub-row"]
            )
        )
        connection.execute(
            sa.insert(table).values(record_key="plain", subject_no=number, note=PLANTED["text"])
        )
    with store.write(ANN) as connection:
        connection.execute(
            sa.insert(table).values(record_key="other", subject_no=other, note=OTHER)
        )
    with store.write(ANN, reason=f"{PLANTED['reason']} again") as connection:
        values = {"note": PLANTED["text"], "scan": PLANTED["blob"].encode(), "finalised": True}
        connection.execute(sa.update(table).where(table.c.record_key == KEY).values(values))
    with store.write(ANN) as connection:
        _download(connection)
        quarantine.keep(connection, "import", "visits.csv", rejected())
        connection.execute(
            sa.insert(proposal).values(
                bundle="b1",
                record_type="visit",
                record_key=KEY,
                field="note",
                mine=PLANTED["proposal"],
                state="open",
                who="ann",
                proposed_at=utc_now(),
            )
        )
        connection.execute(
            sa.insert(checkin).values(
                bundle=PLANTED["bundle"],
                record_type="visit",
                record_key=KEY,
                digest="d",
                outcome="saved",
                who="ann",
                checked_in_at=utc_now(),
            )
        )
    return instance


def _download(connection: sa.Connection) -> None:
    made = sa.insert(download).values(
        who=IDENTIFIER,
        made_at=utc_now(),
        filename=f"{IDENTIFIER}.xlsx",
        size_bytes=1,
        sha256="0",
        options={"keys": [KEY]},
    )
    number = connection.execute(made.returning(download.c.id)).scalar_one()
    connection.execute(
        sa.insert(download_record).values(
            download_id=number, record_type="visit", record_key=KEY, revision=1
        )
    )


def rejected() -> list[tuple[int, bytes, str]]:
    """Return rows for the quarantine: the subject's in many forms, and one of somebody else."""
    line = f"{IDENTIFIER};{PLANTED['quarantine']}"
    forms = [
        line.encode(),
        line.encode("latin-1"),
        b"\xff\xfe" + line.encode("utf-16-le"),
        json.dumps({"id": line}).encode(),
        base64.b64encode(b"x," + line.encode()),
        line.encode().hex().encode(),
        zlib.compress(line.encode()),
        zstandard.compress(line.encode()),
    ]
    rows = [(number, raw, "not a number") for number, raw in enumerate(forms)]
    return [*rows, (99, f"Pätient-7042;{OTHER}".encode(), "not a number")]


def found_in(data: bytes) -> list[str]:
    """Return which planted strings the bytes hold, plain or encoded; ignores case."""
    blocks = [data, *_unpacked(data)]
    lowered = [block.lower() for block in blocks]
    return [
        name
        for name, text in PLANTED.items()
        if any(form in block for form in _forms(text) for block in blocks)
        or any(form.lower() in block for form in _forms(text, cased=False) for block in lowered)
    ]


def in_folder(folder: Path) -> dict[str, list[str]]:
    """Return what the files below a folder hold, their names included."""
    found = {}
    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if held := found_in(path.name.encode() + b"\n" + data):
            found[str(path.relative_to(folder))] = held
    return found


def in_tables(instance: Instance) -> dict[str, list[str]]:
    """Return what the tables hold, every column as text, and the planner's statistics."""
    found = {}
    with instance.store.read() as connection:
        inspector = sa.inspect(connection)
        names = inspector.get_table_names()
        if instance.store.dialect == "postgresql":
            names.append("pg_stats")
        for name in names:
            lines = []
            for row in connection.exec_driver_sql(f'SELECT * FROM "{name}"'):
                for value in row:
                    lines.append(value if isinstance(value, bytes) else str(value).encode())
                    lines.append(json.dumps(value, default=str, ensure_ascii=False).encode())
            if held := sorted({each for line in lines for each in found_in(line)}):
                found[name] = held
    return found


def state(instance: Instance) -> str:
    """Return a digest of the records that are there."""
    with instance.store.read() as connection:
        rows = connection.exec_driver_sql("SELECT record_key, note FROM rec_visit ORDER BY 1").all()
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _forms(text: str, *, cased: bool = True) -> Iterator[bytes]:
    raw = text.encode()
    if not cased:
        yield raw
        yield raw.hex().encode()
        yield json.dumps(text)[1:-1].encode()
        yield text.encode("utf-16-le")
        yield text.encode("utf-16-be")
        return
    for shift in range(3):
        # What of the base64 does not depend on the bytes around it.
        encoded = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        yield encoded[(0, 2, 3)[shift] : len(encoded) - 1]


def _unpacked(data: bytes) -> Iterator[bytes]:
    for place in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", data):
        try:
            yield zlib.decompressobj().decompress(data[place.start() :], 1 << 20)
        except zlib.error:
            continue
    for place in re.finditer(rb"\x28\xb5\x2f\xfd", data):
        try:
            with zstandard.ZstdDecompressor().stream_reader(data[place.start() :]) as reader:
                yield reader.read(1 << 20)
        except zstandard.ZstdError:
            continue
