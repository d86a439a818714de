"""A recorder that is killed: its session is recovered, and a live one is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.acceptance.command import keepline, keepline_json

RECORDER = """
import sys, time
from keepline import CaptureServer, open_instance

with open_instance(sys.argv[1]) as instance:
    server = CaptureServer(instance.capture_store, "bench", user="ann")
    server.start_session()
    while True:
        seq = server.queue(b'{"pressure": 1.5}')
        server.wait(seq, "stored")
        print(server.acknowledged("stored"), flush=True)
"""


def test_killed_recorder_is_recovered_and_a_live_one_left_alone(tmp_path: Path) -> None:
    instance = tmp_path / "instance"
    keepline("init", instance)
    file = tmp_path / "first.csv"
    file.write_text("time,pressure\n2026-03-02T10:00:00Z,1\n")
    options = ("--instrument", "bench", "--tz", "UTC", "--time-column", "time")
    keepline("--instance", instance, "replay", file, *options)

    with subprocess.Popen(
        [sys.executable, "-c", RECORDER, instance], stdout=subprocess.PIPE, text=True
    ) as recorder:
        assert recorder.stdout is not None
        acknowledged = int(recorder.stdout.readline())
        assert keepline_json("--instance", instance, "capture", "recover") == {"sessions": []}
        acknowledged = max(acknowledged, int(recorder.stdout.readline()))
        os.kill(recorder.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, recorder.stdout.read().split())])

    (recovered,) = keepline_json("--instance", instance, "capture", "recover")["sessions"]
    assert recovered["state"] == "interrupted"
    sql = (
        "SELECT a.state, t.messages, s.status, e.event_type FROM archive.session AS a "
        "JOIN archive.stream AS t ON t.session_id = a.id "
        "JOIN sessions.session AS s ON s.identifier = a.global_name "
        "JOIN sessions.event AS e ON e.session_identifier = s.identifier "
        f"WHERE a.global_name = '{recovered['name']}' AND e.event_type = 'END'"
    )
    ((state, messages, status, event),) = keepline_json("--instance", instance, "query", sql)[
        "rows"
    ]
    assert (state, status, event) == ("interrupted", "TO_BE_BUILT", "END")
    assert messages > acknowledged
    built = keepline_json("--instance", instance, "sessions", "build")
    assert built["built"] == [recovered["name"]]
