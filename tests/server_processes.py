"""Child processes that serve on a free loopback port, and are gone when their context ends."""

import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
START_ATTEMPTS = 3
HOST = "127.0.0.1"


class ServerStartError(Exception):
    """The server ended, or did not answer, before it was ready."""


@contextmanager
def running(
    command: Callable[[int], list[str]],
    answers: Callable[[int], bool],
    log: Path,
    stop_signal: signal.Signals,
    child: dict[str, Any],
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a server on a free port until the context ends; its output goes to the log."""
    process, port = start_server(command, answers, log, child)
    try:
        yield process, port
    finally:
        stop_server(process, stop_signal)


def start_server(
    command: Callable[[int], list[str]],
    answers: Callable[[int], bool],
    log: Path,
    child: dict[str, Any],
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server and wait until it answers.

    A port that was free a moment ago may be taken by now; the server then ends at once, and
    another port is tried.
    """
    for _attempt in range(START_ATTEMPTS):
        port = free_port()
        process = spawn(command(port), log, child)
        try:
            if becomes_ready(process, lambda port=port: answers(port)):
                return process, port
        except BaseException:
            stop_server(process, signal.SIGKILL)
            raise
        stop_server(process, signal.SIGKILL)
    raise ServerStartError(f"{command(0)[0]} did not start: {log.read_text(errors='replace')}")


def spawn(command: list[str], log: Path, child: dict[str, Any]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        # In a process group of its own: a Ctrl-C at the terminal is for the tests alone.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            **child,
        )


def becomes_ready(process: subprocess.Popen[bytes], answers: Callable[[], bool]) -> bool:
    """Wait for the server's answer; False when it ended, or said nothing for too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if answers():
            # An answer counts only while the process lives: it may come from another server.
            return process.poll() is None
        time.sleep(0.02)
    return False


def stop_server(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """Stop the server by its process id, and wait for its end."""
    if process.poll() is None:
        process.send_signal(stop_signal)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a folder that everybody may enter, and remove it with all that servers wrote there."""
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
