"""The log of who used which instrument when, and the records built from it."""

from __future__ import annotations

from keepline.sessions.build import BuildReport, RecordWriter, build_sessions
from keepline.sessions.harvest import HarvestResult, harvest_capture
from keepline.sessions.instruments import add_instrument, list_instruments
from keepline.sessions.log import Session, SessionLog, SessionLogWarning, get_sessions_to_build
from keepline.sessions.sql import db_query, make_db_query

__all__ = [
    "BuildReport",
    "HarvestResult",
    "RecordWriter",
    "Session",
    "SessionLog",
    "SessionLogWarning",
    "add_instrument",
    "build_sessions",
    "db_query",
    "get_sessions_to_build",
    "harvest_capture",
    "list_instruments",
    "make_db_query",
]
