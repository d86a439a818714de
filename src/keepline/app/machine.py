"""This computer as an instrument: its own sensors, read with psutil (the extra `demo`)."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from keepline.errors import PluginError
from keepline.model import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keepline.capture.server import CaptureServer


class Machine:
    """The sensors of this computer. Raises PluginError when psutil is not installed."""

    def __init__(self) -> None:
        try:
            import psutil
        except ImportError:
            raise PluginError("psutil is not installed: pip install 'keepline[demo]'") from None
        self._psutil: Any = psutil
        self.channels = tuple(Channel(name, unit=unit) for name, unit, _ in self._read())

    def read(self) -> dict[str, float]:
        """Return the present value of every channel."""
        return {name: value for name, _, value in self._read()}

    def _read(self) -> Iterator[tuple[str, str, float]]:
        psutil = self._psutil
        for core, times in enumerate(psutil.cpu_times(percpu=True)):
            yield f"cpu{core}_user", "s", times.user
            yield f"cpu{core}_system", "s", times.system
            yield f"cpu{core}_idle", "s", times.idle
        for minutes, load in zip((1, 5, 15), psutil.getloadavg(), strict=True):
            yield f"load_{minutes}min", "1", load
        memory = psutil.virtual_memory()
        yield "memory_used", "B", float(memory.used)
        yield "memory_available", "B", float(memory.available)
        disk = psutil.disk_io_counters()  # None on a machine without disks of its own
        if disk is not None:
            yield "disk_read", "B", float(disk.read_bytes)
            yield "disk_written", "B", float(disk.write_bytes)
        network = psutil.net_io_counters()
        if network is not None:
            yield "network_sent", "B", float(network.bytes_sent)
            yield "network_received", "B", float(network.bytes_recv)
        yield from self._temperatures()

    def _temperatures(self) -> Iterator[tuple[str, str, float]]:
        # psutil has no temperatures on macOS.
        sensors: dict[str, Any] = getattr(self._psutil, "sensors_temperatures", dict)()
        for chip, readings in sensors.items():
            for index, reading in enumerate(readings):
                yield f"temperature_{chip}_{index}", "°C", reading.current


def sample(
    machine: Machine,
    server: CaptureServer,
    *,
    rate_hz: float,
    seconds: float,
    on_sample: Callable[[int], None],
) -> int:
    """Queue one message of all channels `rate_hz` times a second; return how many.

    Samples keep to the clock: a late one does not delay the next, and times that were missed
    altogether are left out, to be seen as a gap.
    """
    start = time.monotonic()
    sent = 0
    tick = 0
    while tick < seconds * rate_hz:
        server.queue(json.dumps(machine.read()).encode())
        sent += 1
        on_sample(sent)
        tick = max(tick + 1, int((time.monotonic() - start) * rate_hz))
        time.sleep(max(0.0, start + tick / rate_hz - time.monotonic()))
    return sent
