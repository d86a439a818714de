"""A subject is erased: its strings are nowhere, the proof holds, recipients lose their copies."""

import json
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.app.instance import Instance, open_instance
from keepline.records import seals
from tests.acceptance.command import keepline, keepline_json
from tests.planted import (
    IDENTIFIER,
    KEY,
    OTHER,
    PLANTED,
    found_in,
    in_folder,
    in_tables,
    plant,
)

ERASE = ("subjects", "erase", IDENTIFIER)


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> Iterator[list[str | None]]:
    """Two databases: None stands for SQLite in the instance's folder."""
    if request.param == "sqlite":
        yield [None, None]
        return
    url = sa.make_url(request.getfixturevalue("postgres_url"))
    server = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    names = [f"keepline_test_{uuid.uuid4().hex}" for _ in range(2)]
    with server.connect() as connection:
        for name in names:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield [url.set(database=name).render_as_string(hide_password=False) for name in names]
    with server.connect() as connection:
        for name in names:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def test_erased_strings_are_nowhere_and_the_proof_holds(
    tmp_path: Path, databases: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, restored, backup = tmp_path / "here", tmp_path / "there", tmp_path / "before.zip"
    env = _use(monkeypatch, databases[0])
    plant(folder).close()
    at = ("--instance", folder)
    keepline(*at, "deliver", "run", **env)
    assert set(_everywhere(folder)) == set(PLANTED)  # they can be found where they are
    assert found_in(b"".join(p.read_bytes() for p in (tmp_path / "outbox").rglob("*.json")))
    kept = keepline_json(*at, "backup", backup, **env)
    assert backup.stat().st_mode & 0o777 == 0o600

    shown = keepline_json(*at, *ERASE, **env)
    assert not shown["erased"]
    assert len(_everywhere(folder)) == len(PLANTED)
    done = keepline_json(*at, *ERASE, "--reason", "asked for", "--yes", **env)
    assert done["removed"] == shown["removed"]
    assert done["removed"]["records"] == 2
    assert done["removed"]["quarantined rows"] == 8
    told = "\n".join(done["out_of_reach"])
    assert "recipient ledger was sent 2 of the records" in told
    assert "download 1, made by" in told
    assert IDENTIFIER not in json.dumps(done, ensure_ascii=False)

    assert _everywhere(folder) == []
    _check(folder, kept["head"])
    report = keepline_json(*at, "deliver", "run", **env)["recipients"]
    assert [report[name]["withdrawn"] for name in ("ledger", "files")] == [2, 2]
    assert [path.name.split("-")[0] for path in (tmp_path / "outbox").rglob("*.json")] == ["other"]
    assert _ledger(tmp_path) == [("other", OTHER)]
    again = keepline_json(*at, "deliver", "run", **env)["recipients"]
    assert [again[name]["withdrawn"] + again[name]["sent"] for name in again] == [0, 0]

    env = _use(monkeypatch, databases[1])
    listed = folder / "erasures.jsonl"
    made = keepline_json("restore", backup, "--into", restored, "--erasures", listed, **env)
    assert made["erased_again"] == [1]
    assert [line.split(",")[0] for line in made["warnings"]] == (
        [] if databases[1] is None else ["PostgreSQL's write-ahead log"]
    )
    assert _everywhere(restored) == []
    _check(restored, kept["head"])
    report = keepline_json("--instance", restored, "deliver", "run", **env)["recipients"]
    assert [report[name]["sent"] for name in report] == [0, 0]
    assert all(each["error"] is None for each in report.values())
    assert _ledger(tmp_path) == [("other", OTHER)]


def test_withdrawals_are_listed_before_and_counted_after(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    plant(folder).close()
    at = ("--instance", folder)
    assert "withdrawn" not in keepline(*at, "deliver", "run").stdout
    keepline(*at, *ERASE, "--reason", "asked for", "--yes")
    queued = keepline(*at, "deliver", "queue", "ledger").stdout.splitlines()
    assert [line.split(", ")[1] for line in queued[:-1]] == [
        "to be withdrawn: its subject is erased"
    ] * 2
    assert queued[-1] == "ledger: 0 to send, 2 to withdraw"
    pending = keepline_json(*at, "deliver", "queue")["pending"]
    assert [each["recipient"] for each in pending if each["withdrawal"]] == [
        *("ledger", "ledger"),
        *("files", "files"),
    ]
    assert not found_in("\n".join(queued).encode())
    shown = keepline(*at, "deliver", "run").stdout
    (heading,) = (line for line in shown.splitlines() if "recipient" in line)
    (ledger,) = (line for line in shown.splitlines() if "ledger" in line)
    assert heading.split() == ["recipient", "sent", "withdrawn", "failed", "gone", "remaining"]
    assert ledger.split() == ["ledger", "0", "2", "0", "2", "0"]
    assert keepline_json(*at, "deliver", "queue") == {"pending": []}


def test_a_restored_instance_corrects_what_recipients_have_and_sends_nothing_twice(
    tmp_path: Path, databases: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, restored, backup = tmp_path / "here", tmp_path / "there", tmp_path / "b.zip"
    env = _use(monkeypatch, databases[0])
    with plant(folder) as instance:
        keepline("--instance", folder, "deliver", "run", **env)
        _edit(instance, "late", key="late")  # in the backup, delivered after it
        keepline("--instance", folder, "backup", backup, **env)
        for note in ("lost once", "lost twice"):
            _edit(instance, note)
            keepline("--instance", folder, "deliver", "run", **env)
        before = instance.epoch
    assert dict(_ledger(tmp_path))["other"] == "lost twice"

    env = _use(monkeypatch, databases[1])
    made = keepline_json("restore", backup, "--into", restored, **env)
    assert made["epoch"] != before
    run = ("--instance", restored, "deliver", "run")
    first = keepline_json(*run, **env)["recipients"]
    assert [each["error"] for each in first.values()] == [None, None]
    assert first["ledger"]["sent"] == 1  # `late`, of which the restored log knows nothing
    with open_instance(restored) as instance:
        _edit(instance, "corrected")
    keepline(*run, **env)
    rows = _ledger(tmp_path)
    assert len(rows) == 4
    assert dict(rows)["other"] == "corrected"
    assert len([*(tmp_path / "outbox").rglob("*.json")]) == 4


def _use(monkeypatch: pytest.MonkeyPatch, url: str | None) -> dict[str, str]:
    """Have this process, and commands, use the database at `url`."""
    if url is None:
        return {}
    monkeypatch.setenv("KEEPLINE_STORE__URL", url)
    return {"KEEPLINE_STORE__URL": url}


def _everywhere(folder: Path) -> list[str]:
    """Return the names of the planted strings that an instance's files and tables hold."""
    with open_instance(folder) as instance:
        tables = in_tables(instance)
    files = in_folder(folder)
    return sorted({name for held in (*tables.values(), *files.values()) for name in held})


def _check(folder: Path, head: dict[str, object]) -> None:
    """Check the proof, also against the head that was kept before the erasure."""
    anchor = seals.Head(int(str(head["history_id"])), str(head["chain"]))
    with open_instance(folder) as instance, instance.store.read() as connection:
        assert list(seals.check(connection, anchor)) == []
        assert OTHER in str(connection.exec_driver_sql("SELECT note FROM rec_visit").all())
        erased = "SELECT count(*) FROM record_history WHERE erased"
        assert connection.exec_driver_sql(erased).scalar_one() == 7
        keys = connection.exec_driver_sql("SELECT record_key FROM change_feed").scalars().all()
        assert KEY not in keys
        assert "plain" in keys


def _ledger(folder: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(folder / "ledger.db") as connection:
        rows = connection.execute("SELECT record_key, note FROM keepline_visit ORDER BY 1")
        found = rows.fetchall()
    connection.close()
    return found


def _edit(instance: Instance, note: str, key: str = "other") -> None:
    with instance.store.write(instance.principal("ann"), reason="edited") as connection:
        values = {"note": note, "key": key}
        update = sa.text("UPDATE rec_visit SET note = :note WHERE record_key = :key")
        if not connection.execute(update, values).rowcount:
            insert = sa.text("INSERT INTO rec_visit (record_key, note) VALUES (:key, :note)")
            connection.execute(insert, values)
