"""Backups: one state while others write, whole or not there; a restore writes over nothing."""

import contextlib
import hashlib
import json
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.app import backups
from keepline.app.instance import Instance, init_instance, open_instance
from keepline.app.subjects import parts
from keepline.errors import InstanceError, SchemaTooNewError
from keepline.model import Principal, StreamSpec, utc_now
from keepline.records import erasing, subjects
from keepline.store import Store
from keepline.store.backup import BackupWriter
from tests.planted import ANN, VISIT, plant
from tests.stores import around


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """An instance with records, on SQLite."""
    with plant(tmp_path / "here") as made:
        yield made


def _rewrite(file: Path, name: str, change: bytes) -> None:
    """Replace one member of a backup, keeping the archive's own checksums right."""
    with zipfile.ZipFile(file) as old:
        members = {each: old.read(each) for each in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for each, data in {**members, name: change}.items():
            new.writestr(each, data)


def test_a_backup_is_one_state_while_others_write(instance: Instance, tmp_path: Path) -> None:
    begun, stop = threading.Event(), threading.Event()

    def write() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            with instance.store.write(ANN, reason="count") as connection:
                for key in ("plain", "other"):
                    connection.execute(
                        sa.text("UPDATE rec_visit SET note = :n WHERE record_key = :k"),
                        {"n": str(count), "k": key},
                    )
            begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait(60)
    try:
        for number in range(3):
            backups.backup(instance, tmp_path / f"{number}.zip")
    finally:
        stop.set()
        writer.join()
    for number in range(3):
        folder = tmp_path / f"restored-{number}"
        assert backups.restore(tmp_path / f"{number}.zip", folder).warnings == []
        with open_instance(folder) as restored, restored.store.read() as connection:
            notes = "SELECT DISTINCT note FROM rec_visit WHERE record_key IN ('plain', 'other')"
            assert len(connection.exec_driver_sql(notes).all()) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_damage_is_found_before_anything_is_written(instance: Instance, tmp_path: Path) -> None:
    file, folder = tmp_path / "b.zip", tmp_path / "there"
    backups.backup(instance, file)
    whole = file.read_bytes()
    _rewrite(file, "store.db", b"SQLite format 3\0" + bytes(4096))
    with pytest.raises(InstanceError, match=r"store\.db is damaged"):
        backups.restore(file, folder)
    for cut in (len(whole) // 2, 10):
        file.write_bytes(whole[:cut])
        with pytest.raises(InstanceError, match="no backup of keepline, or is damaged"):
            backups.restore(file, folder)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    file.write_bytes(flipped)
    with pytest.raises(InstanceError, match="damaged"):
        backups.restore(file, folder)
    assert not folder.exists()


def test_a_backup_of_another_schema_is_refused(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "b.zip"
    backups.backup(instance, file)
    with zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read("manifest.json"))
    _rewrite(file, "manifest.json", json.dumps({**about, "schema": "9999"}).encode())
    with pytest.raises(SchemaTooNewError, match="upgrade keepline"):
        backups.restore(file, tmp_path / "there")


def test_nothing_is_written_over(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "b.zip"
    backups.backup(instance, file)
    before = file.read_bytes()
    with pytest.raises(InstanceError, match="is there already"):
        backups.backup(instance, file)
    with pytest.raises(InstanceError, match="is not empty"):
        backups.restore(file, instance.folder)
    assert file.read_bytes() == before


def test_secrets_stay_behind_and_the_rest_of_the_settings_comes_along(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "here"
    init_instance(folder).close()
    (folder / "keepline.toml").write_text(
        '[store]\nurl = "sqlite:///sub.db"\n[ingest]\ntoken = "s3cret-a"\nidle_s = 9.5\n'
        '[streams."b.1"]\ninstrument = "bench"\noptions = { sep = "\\t", n = [1, 2] }\n'
        "[recipients.db]\n"
        'transport = "database"\nurl = "postgresql://ann:s3cret-b@db/x?password=s3cret-c"\n'
    )
    (folder / "keepline.db").rename(folder / "sub.db")
    with open_instance(folder) as made:
        backups.backup(made, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        held = b"".join(archive.read(name) for name in archive.namelist())
        settings = tomllib.loads(archive.read("keepline.toml").decode())
    assert b"s3cret" not in held
    assert settings["recipients"]["db"]["url"] == "postgresql://ann@db/x"
    assert settings["ingest"] == {"idle_s": 9.5}
    assert settings["streams"]["b.1"]["options"] == {"sep": "\t", "n": [1, 2]}
    backups.restore(tmp_path / "b.zip", tmp_path / "there")
    assert (tmp_path / "there" / "sub.db").is_file()


def test_numbers_given_out_after_the_backup_do_not_come_again(
    instance: Instance, tmp_path: Path
) -> None:
    with open_instance(instance.folder) as here:
        store = here.capture_store
        store.create_session("bench", "ann", StreamSpec(), started=utc_now()).close()
        backups.backup(here, tmp_path / "b.zip")
        store.create_session("bench", "ann", StreamSpec(), started=utc_now()).close()
        given = store.last_number
        later = subjects.add("later", instance=here, principal=ANN)
    restored = backups.restore(tmp_path / "b.zip", tmp_path / "there")
    assert restored.epoch != instance.epoch
    with open_instance(tmp_path / "there") as again:
        assert again.store_id == instance.store_id
        assert subjects.add("new", instance=again, principal=ANN).number > later.number
        assert again.capture_store.last_number > given


def test_an_erasure_of_another_life_erases_nobody_else(instance: Instance, tmp_path: Path) -> None:
    backups.backup(instance, tmp_path / "b.zip")
    listed = tmp_path / "erasures.jsonl"
    listed.write_text('{"subject": 2, "digest": "of somebody else"}\n{"subject": 1, "dig')
    made = backups.restore(tmp_path / "b.zip", tmp_path / "there", erasures=listed)
    assert made.erased_again == []
    assert "is not this instance's" in made.warnings[0]


def _hostile(file: Path, settings: bytes, **members: bytes) -> None:
    """Put settings and members into a backup, with the checksums that it needs."""
    with zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read("manifest.json"))
    for name, data in {"keepline.toml": settings, **members}.items():
        _rewrite(file, name, data)
        said = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        about["members"][name] = said
    _rewrite(file, "manifest.json", json.dumps(about).encode())


@pytest.mark.parametrize(
    "settings",
    [
        '[capture]\npath = "{victim}"',
        '[capture.spool]\npath = "../escaped.txt"',
        '[store]\nurl = "sqlite:///../escaped.txt"',
        '[store]\nurl = "sqlite:///{victim}"',
        '[store]\nurl = "sqlite:///file:../escaped.txt?uri=true"',
        '[capture]\npath = "keepline.db-wal"',
        '[capture]\npath = "erasures.jsonl"',
    ],
)
def test_a_backup_writes_within_its_folder_alone(
    instance: Instance, tmp_path: Path, settings: str
) -> None:
    file, victim = tmp_path / "b.zip", tmp_path / "victim.txt"
    backups.backup(instance, file)
    victim.write_text("mine")
    text = settings.format(victim=victim).encode()
    _hostile(file, text, **{"capture.db": b"evil", "spool.db": b"evil"})
    with pytest.raises(InstanceError, match="not one that keepline wrote"):
        backups.restore(file, tmp_path / "there")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "escaped.txt").exists()
    assert not (tmp_path / "there").exists()


def test_settings_that_are_too_large_are_not_read(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "b.zip"
    backups.backup(instance, file)
    _hostile(file, b"#" * (5 << 20))
    with pytest.raises(InstanceError, match="too large"):
        backups.restore(file, tmp_path / "there")


def test_a_spool_elsewhere_is_restored_into_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "here", tmp_path / "elsewhere"
    outside.mkdir()
    init_instance(folder).close()
    with (folder / "keepline.toml").open("a") as out:
        out.write(f'\n[capture.spool]\npath = "{outside / "keepline.db"}"\n')
    with contextlib.closing(sqlite3.connect(outside / "keepline.db")) as made:
        made.execute("CREATE TABLE held (x)")
    with open_instance(folder) as here:
        backups.backup(here, tmp_path / "b.zip")
    backups.restore(tmp_path / "b.zip", tmp_path / "there")
    assert (tmp_path / "there" / "spool.db").is_file()


def test_a_restored_store_has_its_triggers(instance: Instance, tmp_path: Path) -> None:
    backups.backup(instance, tmp_path / "b.zip")
    backups.restore(tmp_path / "b.zip", tmp_path / "there")
    store = Store(f"sqlite:///{tmp_path / 'there' / 'keepline.db'}")
    with pytest.raises(sa.exc.DatabaseError, match="a reason is required"), around(store) as raw:
        raw.exec_driver_sql(f"UPDATE {VISIT.table_name} SET note = 'x' WHERE record_key = 'other'")
    with pytest.raises(sa.exc.DatabaseError, match="append-only"), around(store) as raw:
        raw.exec_driver_sql("UPDATE record_history SET image = NULL")
    with store.read() as connection:
        assert subjects.find(connection, "other-1", Principal.system("x")).number == 2
    store.close()


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made anew"])
def test_revisions_of_the_old_life_do_not_come_again(
    instance: Instance, tmp_path: Path, again: bool
) -> None:
    backups.backup(instance, tmp_path / "b.zip")
    lost = "SELECT revision FROM rec_visit WHERE record_key = 'plain'"
    with instance.store.write(ANN, reason="after the backup") as connection:
        connection.exec_driver_sql("UPDATE rec_visit SET note = 'x' WHERE record_key = 'plain'")
        highest = connection.exec_driver_sql(lost).scalar_one()
    backups.restore(tmp_path / "b.zip", tmp_path / "there")
    with open_instance(tmp_path / "there") as here:
        with here.store.write(ANN, reason="all anew") as connection:
            connection.exec_driver_sql("DELETE FROM rec_visit WHERE record_key = 'plain'")
            if again:
                connection.exec_driver_sql("INSERT INTO rec_visit (record_key) VALUES ('plain')")
        with here.store.read() as connection:
            fed = "SELECT revision FROM change_feed WHERE record_key = 'plain' ORDER BY id"
            revisions = connection.exec_driver_sql(fed).scalars().all()
    assert [each > highest for each in revisions[-1 - again :]] == [True] * (1 + again)


DECLARED = 'comment = "A vial"\n[fields]\nlabel = { required = true }\n'


@pytest.mark.parametrize("named", ["types", "declared", "../shared"])
def test_declarations_of_record_types_come_along(tmp_path: Path, named: str) -> None:
    folder = tmp_path / "here"
    init_instance(folder).close()
    with (folder / "keepline.toml").open("a") as out:
        out.write(f'\n[records]\ntypes = "{named}"\n')
    types = folder / named
    types.mkdir()
    (types / "vial.toml").write_text(DECLARED)
    (types / "notes.txt").write_text("no declaration")
    (types / ".#vial.toml").symlink_to("ann@bench.1234")  # an editor's lock
    (types / "large.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with open_instance(folder) as here:
        made = backups.backup(here, tmp_path / "b.zip")
    (left,) = made.not_included[1:]
    assert left.startswith(f"{types / 'large.toml'}: too large")
    backups.restore(tmp_path / "b.zip", tmp_path / "there")
    with open_instance(tmp_path / "there") as again:
        beneath = tmp_path / "there" / Path(named).name
        assert again.folder / again.settings.records.types == beneath
    assert [(each.name, each.read_text()) for each in beneath.iterdir()] == [
        ("vial.toml", DECLARED)
    ]


def test_settings_are_no_declaration(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    init_instance(folder).close()
    with (folder / "keepline.toml").open("a") as out:
        out.write('\n[records]\ntypes = "."\n[ingest]\ntoken = "s3cret"\n')
    with open_instance(folder) as here:
        backups.backup(here, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert b"s3cret" not in b"".join(archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize(
    ("settings", "member", "data"),
    [
        ("", "types/../../escaped.toml", b""),
        ("", "types//escaped.toml", b""),
        ("", "types/.escaped.toml", b""),
        ("", "types/escaped.sh", b""),
        ("", "types/vial.toml", b"#" * ((1 << 20) + 1)),
        ('[records]\ntypes = "../escaped"', "types/vial.toml", b""),
        ('[records]\ntypes = "keepline.toml"', "types/vial.toml", b""),
    ],
)
def test_declarations_are_written_beneath_the_new_folder_alone(
    instance: Instance, tmp_path: Path, settings: str, member: str, data: bytes
) -> None:
    backups.backup(instance, tmp_path / "b.zip")
    _hostile(tmp_path / "b.zip", settings.encode(), **{member: data})
    with pytest.raises(InstanceError, match="not one that keepline wrote"):
        backups.restore(tmp_path / "b.zip", tmp_path / "there")
    assert not [*tmp_path.rglob("*escaped*"), *tmp_path.glob("there")]


@pytest.mark.parametrize(
    "change",
    [
        {"members": []},
        {"members": {"store.db": {}}},
        {"head": ["1"]},
        {"made_at": None},
        {"kind": 7},
    ],
)
def test_a_manifest_of_another_form_is_refused(
    instance: Instance, tmp_path: Path, change: dict[str, object]
) -> None:
    file = tmp_path / "b.zip"
    backups.backup(instance, file)
    with zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read("manifest.json"))
    _rewrite(file, "manifest.json", json.dumps(about | change).encode())
    with pytest.raises(InstanceError, match="is damaged"):
        backups.restore(file, tmp_path / "there")


def test_damaged_settings_are_said_to_be(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "b.zip"
    backups.backup(instance, file)
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo("keepline.toml").header_offset + 80
    raw = bytearray(file.read_bytes())
    raw[place] ^= 0xFF
    file.write_bytes(raw)
    with pytest.raises(InstanceError, match=r"keepline\.toml is damaged"):
        backups.restore(file, tmp_path / "there")


def test_a_store_that_is_none_is_said_to_be(instance: Instance, tmp_path: Path) -> None:
    file, folder = tmp_path / "b.zip", tmp_path / "there"
    backups.backup(instance, file)
    _hostile(file, b"", **{"store.db": b"no database" * 1000})
    with pytest.raises(InstanceError):
        backups.restore(file, folder)
    assert not [*folder.iterdir()]


KILLED = """
import os, signal, sys
from pathlib import Path
from keepline.app import backups

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(backups, sys.argv[3], killed)
backups.restore(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("step", ["copy_in", "_restore_captures", "_erase_again", "sync_folder"])
def test_a_restore_that_is_killed_leaves_no_instance(
    instance: Instance, tmp_path: Path, step: str
) -> None:
    file, folder = tmp_path / "b.zip", tmp_path / "there"
    backups.backup(instance, file)
    command = [sys.executable, "-c", KILLED, str(file), str(folder), step]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (folder / "keepline.toml").exists() == (step == "sync_folder")
    if step != "sync_folder":
        with pytest.raises(InstanceError, match=r"no keepline\.toml"):
            open_instance(folder)
    with pytest.raises(InstanceError, match="is not empty"):
        backups.restore(file, folder)


def test_a_full_disk_leaves_no_half_backup(instance: Instance, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (2_000, 40_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(InstanceError, match=r"cannot be (written|copied)"):
                backups.backup(instance, tmp_path / "b.zip")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*tmp_path.glob("*b.zip*")]


def test_a_backup_needs_no_hard_links(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", none)
    backups.backup(instance, tmp_path / "b.zip")
    assert backups.restore(tmp_path / "b.zip", tmp_path / "there").warnings == []
    with BackupWriter(tmp_path / "c.zip") as writer:
        (tmp_path / "c.zip").write_text("mine")
        with pytest.raises(InstanceError, match="is there already"):
            writer.finish({})
    assert (tmp_path / "c.zip").read_text() == "mine"
    assert not [*tmp_path.glob(".*")]


def test_an_erasure_that_was_killed_is_listed_by_the_next_backup(
    instance: Instance, tmp_path: Path
) -> None:
    with instance.store.read() as connection:
        found = subjects.find(connection, "other-1", ANN)
    erasing.erase(instance.store, found, parts(), principal=ANN, reason="asked")  # and no more
    listed = instance.folder / "erasures.jsonl"
    assert not listed.exists()
    backups.backup(instance, tmp_path / "b.zip")
    assert json.loads(listed.read_text())["subject"] == found.number
