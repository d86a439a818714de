"""A store with two groups' rows in every table that the query modules show."""

from datetime import UTC, date, datetime, timedelta

import sqlalchemy as sa

from keepline.model import Field, Principal, RecordType, SubTable, to_us
from keepline.store import Store, schema
from keepline.store.tables import capture, common, delivery, records, sessions
from keepline.store.tables.declared import record_table, record_tables, subtable_table

START = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
USAGE = RecordType(
    "usage",
    (
        Field("instrument", required=True),
        Field("runs", "integer"),
        Field("mean", "real"),
        Field("valid", "boolean"),
        Field("day", "date"),
        Field("made_at", "datetime"),
        Field("extra", "json"),
        Field("scan", "blob"),
    ),
    subtables=(SubTable("channel", "name", (Field("height", "real"),)),),
)

#: An instrument of each group; rows that belong to nobody go with "open".
GROUPS = {"open": None, "red_one": "red", "blue_one": "blue"}

SYSTEM = Principal.system()
ANN = Principal("ann", groups=frozenset({"red"}))
BEN = Principal("ben")


def fill(store: Store) -> None:
    """Make the schema, declare USAGE, and write rows about one instrument of each group."""
    schema.migrate(store)
    with store.maintenance() as connection:
        schema.create_record_tables(connection, USAGE)
        connection.execute(
            sa.insert(records.record_type).values(
                name=USAGE.name, declaration=USAGE.to_json(), applied_at=START
            )
        )
    with store.write(SYSTEM) as connection:
        _noted(connection)
        for number, (instrument, group) in enumerate(GROUPS.items(), start=1):
            connection.execute(
                sa.insert(common.instrument).values(
                    name=instrument, tz="UTC", group_name=group, comment=""
                )
            )
            _archived(connection, number, instrument, group)
            _logged(connection, number, instrument, group)
            _recorded(connection, number, instrument, group)


def _archived(connection: sa.Connection, number: int, instrument: str, group: str | None) -> None:
    began = START + timedelta(hours=number)
    connection.execute(
        sa.insert(capture.capture_session).values(
            id=number, store_id="s", number=number, global_name=f"capture:s:{number}",
            instrument=instrument, user_name="ann", state="complete", started_at=began,
            ended_at=began + timedelta(minutes=5), origin=None, group_name=group,
            level="stored",
        )
    )  # fmt: skip
    connection.execute(
        sa.insert(capture.stream).values(
            session_id=number, source="main", decoder="json", options={"b": 1, "a": [None]},
            step_us=20_000, messages=100 * number, readings=200 * number, quarantined=0,
            lost=0, last_time_us=to_us(began) + 7,
        )
    )  # fmt: skip
    connection.execute(
        sa.insert(capture.channel).values(
            id=number, session_id=number, source="main", name="load", dtype="float64", unit=None
        )
    )
    connection.execute(
        sa.insert(capture.block).values(
            id=number, session_id=number, source="main", first_seq=0, last_seq=9, readings=10,
            crc=1, codec="x", payload=b"secret",
        )
    )  # fmt: skip
    connection.execute(
        sa.insert(capture.block_stat).values(
            block_id=number, channel_id=number, n=10, min=0.1, max=2.0 * number, total=None,
            first=0.1, last=-0.5, first_us=to_us(began), last_us=to_us(began) + 7,
        )
    )  # fmt: skip
    connection.execute(
        sa.insert(capture.clock_fit).values(
            session_id=number, source="main", first_seq=0, last_seq=9, n=9, first_tick=-5,
            origin_us=to_us(began), tick_us=999.5, rms_residual_us=0.25, max_residual_us=3,
            mean_tick=1.5, spread_ticks=0.5,
        )
    )  # fmt: skip
    connection.execute(
        sa.insert(capture.gap).values(
            session_id=number, source="main", kind="time", after_seq=4,
            from_us=to_us(began) + 1, until_us=to_us(began) + 2,
        )
    )  # fmt: skip


def _noted(connection: sa.Connection) -> None:
    connection.execute(
        sa.insert(capture.listed_session).values(
            store_id="s", number=1, started_at=START, ended_at=None, messages=3, available=False
        )
    )
    connection.execute(sa.insert(capture.category).values(id=1, name="speed", unit="m/s"))
    connection.execute(
        sa.insert(capture.cached_reading).values(
            category_id=1, logged_us=to_us(START), value={"é": [1, None]}
        )
    )
    connection.execute(
        sa.insert(capture.config_item).values(key="k", value=[1.5], changed_at=START, who="ann")
    )
    connection.execute(
        sa.insert(capture.notification).values(description="x", severity=2, logged_at=START)
    )


def _logged(connection: sa.Connection, number: int, instrument: str, group: str | None) -> None:
    began = START + timedelta(hours=number)
    identifier = f"capture:s:{number}"
    connection.execute(
        sa.insert(sessions.session).values(
            identifier=identifier, instrument=instrument, user_name="ann", started_at=began,
            ended_at=began + timedelta(minutes=5), status="COMPLETED", group_name=group,
        )
    )  # fmt: skip
    connection.execute(
        sa.insert(sessions.session_event).values(
            session_identifier=identifier, instrument=instrument, happened_at=began,
            event_type="START", user_name=None, recorded_at=began,
        )
    )  # fmt: skip
    connection.execute(
        sa.insert(sessions.session_change).values(
            session_identifier=identifier, status="COMPLETED", changed_at=began, who="x",
            host="h", reason="",
        )
    )  # fmt: skip


def _recorded(connection: sa.Connection, number: int, instrument: str, group: str | None) -> None:
    tables = record_tables(USAGE)
    key = f"key-{number}"
    connection.execute(
        sa.insert(record_table(USAGE, tables)).values(
            record_key=key, group_name=group, instrument=instrument, runs=number,
            mean=number / 4, valid=bool(number % 2), day=date(1999, 12, number),
            made_at=START, extra={"é": [1, None]}, scan=b"\x00" * number,
        )
    )  # fmt: skip
    connection.execute(
        sa.insert(records.subject).values(
            identifier=f"person of {instrument}", group_name=group, created_at=START
        )
    )
    connection.execute(
        sa.insert(subtable_table(USAGE, USAGE.subtables[0], tables)).values(
            record_key=key, name="load", height=2.0
        )
    )
    connection.execute(
        sa.insert(delivery.sent_log).values(
            recipient="ledger", record_type="usage", record_key=key, revision=1,
            target_key=f"t{number}", send_key=f"s{number}", state="sent", started_at=START,
            finished_at=None, reason="",
        )
    )  # fmt: skip
    connection.execute(
        sa.insert(delivery.delivery_backlog).values(
            recipient="files", record_type="usage", record_key=key, queued_at=START
        )
    )
