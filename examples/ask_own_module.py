"""Join a table of one's own with what an instance holds, by SQL and by a Request.

python examples/ask_own_module.py FOLDER
"""

import sys

from keepline import init_instance
from keepline.model import Instrument
from keepline.query import Column, connect, request
from keepline.query.module import ColumnInfo
from keepline.query.modules.memory import MemoryModule
from keepline.sessions import SessionLog, add_instrument

with init_instance(sys.argv[1]) as instance:
    add_instrument(Instrument("stm-2", tz="Europe/Madrid"))
    SessionLog("s1", "stm-2", "2026-03-02T10:00:00", "START", "ann").insert_log()
    SessionLog("s1", "stm-2", "2026-03-02T12:30:00", "END", "ann").insert_log()

    prices = MemoryModule("prices")
    prices.add_table(
        "hourly",
        (ColumnInfo("instrument"), ColumnInfo("euro", "real")),
        [("stm-2", 40.0)],
        key=("instrument",),
    )
    instance.modules = {**instance.modules, "prices": prices}

    with connect("ann") as connection:
        cursor = connection.cursor()
        cursor.execute("""
            SELECT s.user_name, p.euro * date_diff('minute', s.started_at, s.ended_at) / 60
            FROM sessions.session AS s JOIN prices.hourly AS p USING (instrument)
        """)
        print("by SQL:", cursor.fetchall())

        asked = request()
        session = ("sessions", "session")
        asked.add_field("who", Column(session, "user_name"))
        asked.add_field("euro", Column(("prices", "hourly"), "euro"))
        asked.add_param(Column(("prices", "hourly"), "instrument"), Column(session, "instrument"))
        cursor.execute(asked)
        print("as a Request:", cursor.fetchall())
