"""Lines from a serial port."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from contextlib import suppress
from typing import Any

import serial

from keepline.capture.ingest.feeder import Feeder
from keepline.capture.ingest.lines import LineSplitter
from keepline.errors import IngestError, KeeplineError

_log = logging.getLogger(__name__)

_READ_S = 0.2
_READ_BYTES = 64 * 1024
_FIRST_RETRY_S = 0.25
_LAST_RETRY_S = 10.0

_REMEDIES = {
    errno.ENOENT: "there is none; plug it in, or see --device",
    errno.EACCES: "you may not; its group, often dialout, may",
    errno.EAGAIN: "another program has it open; end that first",
    errno.ENOTTY: "it is no serial port; see --device",
}


class SerialLines:
    """Takes lines from a serial device, in a thread of its own.

    When the device goes away it is opened again as soon as it is back; what it said meanwhile
    is missing, which shows as a gap in time. A line that this cut off is quarantined. The first
    line after an opening may be the rest of one; it is taken as it is, for the decoder to judge.
    """

    acknowledges = False

    def __init__(self, device: str, *, baud: int = 9600, max_message_kb: int = 64) -> None:
        self._device = device
        self._baud = baud
        self._max_bytes = max_message_kb * 1024
        self._port: Any = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._feeder: Feeder

    async def prepare(self) -> str:
        """Open the device and return its name; see Way."""
        try:
            self._port = await asyncio.to_thread(self._opened)
        except (OSError, ValueError) as error:
            raise IngestError(
                f"the serial device {self._device} cannot be opened: {_reason(error)}"
            ) from error
        return f"serial:{self._device}"

    async def open(self, feeder: Feeder) -> None:
        """Begin to read; see Way."""
        self._feeder = feeder
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="keepline-serial", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Read no more; see Way."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.join)
        self._close_port()

    def _opened(self) -> Any:
        # Exclusive: two readers would each get a part of every line.
        return serial.serial_for_url(
            self._device, baudrate=self._baud, timeout=_READ_S, exclusive=True
        )

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._read()
                self._reopen()
        except KeeplineError as error:
            self._feeder.fail(error)
        except Exception as error:  # the run has to end with it, and not go on without input
            self._feeder.fail(
                IngestError(f"the serial device {self._device} cannot be read: {_reason(error)}")
            )

    def _read(self) -> None:
        """Read lines until the device is gone, or reading is to stop."""
        splitter = LineSplitter(self._max_bytes)
        reason = f"{self._device} went away in the middle of this message"
        while True:
            if self._stopping.is_set():
                reason = "reading was stopped in the middle of this message"
                break
            try:
                data = self._port.read(max(1, min(self._port.in_waiting, _READ_BYTES)))
            except (OSError, TypeError):  # TypeError: pyserial's way to say that it was closed
                break
            self._put(splitter.split(data))
            if splitter.overlong is not None:
                self._reject(splitter.overlong, f"a message of more than {self._max_bytes} bytes")
                splitter = LineSplitter(self._max_bytes)
        if splitter.rest:
            self._reject(splitter.rest, reason)

    def _put(self, messages: list[bytes]) -> None:
        done = self._feeder.main.take_waiting(messages, self._stopping.is_set)
        for message in messages[done:]:
            self._reject(message, "reading was stopped while the store took no messages")

    def _reject(self, raw: bytes, reason: str) -> None:
        kept = asyncio.run_coroutine_threadsafe(self._feeder.reject(raw, reason), self._loop)
        with suppress(IngestError):  # the run fails with it; there may be more to be kept
            kept.result()

    def _reopen(self) -> None:
        """Open the device again as soon as that is possible."""
        self._close_port()
        wait_s = _FIRST_RETRY_S
        if not self._stopping.is_set():
            _log.warning("%s has gone; waiting for it", self._device)
        while not self._stopping.wait(wait_s):
            try:
                self._port = self._opened()
            except (OSError, ValueError):
                wait_s = min(2 * wait_s, _LAST_RETRY_S)
            else:
                _log.warning("%s is back", self._device)
                return

    def _close_port(self) -> None:
        if self._port is not None:
            self._port.close()


def _reason(error: Exception) -> str:
    """Return what is wrong, once, and what to do: pyserial repeats itself and the device."""
    for each in (error, error.__context__):
        if each is not None and each.args and isinstance(each.args[0], int):  # termios' errors too
            return _REMEDIES.get(each.args[0], os.strerror(each.args[0]))
    return " ".join(str(error).split())
