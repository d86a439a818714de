"""Lines of standard input, until they end or somebody says so."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from keepline.errors import CaptureError

_BUFFER_BYTES = 1 << 16
_POLL_S = 0.5
_MAX_LINE_BYTES = 16 * 1024 * 1024


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set while the block runs; they do nothing else.

    At a second signal they do what they did before.
    """
    event = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def noted(_number: int, _frame: object) -> None:
        event.set()
        put_back()

    for number in before:
        signal.signal(number, noted)
    try:
        yield event
    finally:
        put_back()


def standard_input(ended: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the lines of standard input as they come, without their line ends.

    `ended` is asked twice a second; what was read by then is given. Raises CaptureError for
    a line of more than 16 MiB.
    """
    descriptor = sys.stdin.fileno()
    rest = b""
    while not ended():
        if not select.select([descriptor], [], [], _POLL_S)[0]:
            continue
        read = os.read(descriptor, _BUFFER_BYTES)
        if not read:
            break
        *lines, rest = (rest + read).split(b"\n")
        yield from lines
        if len(rest) > _MAX_LINE_BYTES:
            raise CaptureError("a line of standard input has more than 16 MiB; is this text?")
    if rest:
        yield rest
