"""One run of a way in: from the session's start until somebody or something ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from keepline.capture.ingest.feeder import Feeder, Totals
from keepline.capture.ingest.way import Way
from keepline.errors import IngestError
from keepline.model import SessionInfo

_PROGRESS_S = 0.5


async def run(
    feeder: Feeder,
    way: Way,
    *,
    seconds: float | None = None,
    started: Callable[[SessionInfo, str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Totals:
    """Take messages until SIGINT, SIGTERM, a request to stop the session, or for `seconds`.

    `started` is told the session and the address, `progress` twice a second how many messages
    were taken and how many inputs were rejected. When the run fails the session ends as
    interrupted. Raises IngestError, and what starting and writing a session raise.
    """
    if way.acknowledges and not feeder.promises:
        raise IngestError(
            "messages that are acknowledged must not be dropped: set when_full of "
            "[capture.spool] to block or raise"
        )
    async with _signals() as signalled:
        try:
            address = await way.prepare()
            info = await feeder.start()
            try:
                await way.open(feeder)
                if started is not None:
                    started(info, address)
                await _until(signalled, feeder, seconds, progress)
                feeder.hurry()
                await way.close()
                return await feeder.stop()
            except BaseException:
                feeder.hurry()
                await way.close()
                await feeder.abandon()
                raise
        finally:
            await way.close()


async def _until(
    signalled: asyncio.Event,
    feeder: Feeder,
    seconds: float | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    watching = asyncio.create_task(feeder.watch())
    waiting = asyncio.create_task(signalled.wait())
    showing = asyncio.create_task(_show(feeder, progress))
    try:
        await asyncio.wait(
            (watching, waiting), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if watching.done():
            watching.result()
    finally:
        for task in (watching, waiting, showing):
            task.cancel()
        await asyncio.gather(watching, waiting, showing, return_exceptions=True)


async def _show(feeder: Feeder, progress: Callable[[int, int], None] | None) -> None:
    while progress is not None:
        progress(feeder.taken, feeder.rejected)
        await asyncio.sleep(_PROGRESS_S)


@asynccontextmanager
async def _signals() -> AsyncIterator[asyncio.Event]:
    """Give an event that SIGINT and SIGTERM set; at a second one they act as ever."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def noted() -> None:
        event.set()
        put_back()

    def put_back() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    # Only the main thread has signal handlers; elsewhere somebody else has to end the run.
    with suppress(RuntimeError, ValueError, NotImplementedError):
        for number in numbers:
            loop.add_signal_handler(number, noted)
    try:
        yield event
    finally:
        put_back()
