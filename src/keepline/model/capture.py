"""Streams of messages, their sessions and chunks."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

#: The longest step that a stream may declare: 100 years of 365 days.
MAX_STEP_US = 100 * 365 * 86_400 * 1_000_000

#: How safe a message is. accepted: in the process; stored: survives a kill of the process;
#: fsynced: on stable storage; archived: in the SQL archive.
Level = Literal["accepted", "stored", "fsynced", "archived"]
LEVELS: tuple[Level, ...] = ("accepted", "stored", "fsynced", "archived")

#: What a capture session is. Only `running` takes data.
CaptureState = Literal["running", "complete", "partial", "interrupted", "empty"]
CAPTURE_STATES: tuple[CaptureState, ...] = (
    "running",
    "complete",
    "partial",
    "interrupted",
    "empty",
)

#: What a channel's values are.
DType = Literal["float64", "int64", "bool", "text"]
DTYPES: tuple[DType, ...] = ("float64", "int64", "bool", "text")


@dataclass(frozen=True, slots=True)
class Channel:
    """One quantity of a stream: its name, value type and unit.

    Raises ValueError for a name without a character or an unknown value type.
    """

    name: str
    dtype: DType = "float64"
    unit: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a channel needs a name")
        if self.dtype not in DTYPES:
            raise ValueError(f"a channel's values are {', '.join(DTYPES)}, not {self.dtype!r}")


@dataclass(frozen=True, slots=True)
class TickClock:
    """The device's own counter, whose values are the ticks of a stream.

    It has `bits` bits and starts again at 0 after the largest value. One tick takes `tick_us`
    microseconds; None says that it counts messages, or something else than time. `step` is the
    declared difference between two messages in ticks; a larger one is a hole. Raises ValueError
    for a counter of fewer than 8 or more than 63 bits, or a step or tick that is not positive.
    """

    bits: int = 32
    tick_us: float | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= 63:
            raise ValueError("a device's counter has 8 to 63 bits")
        if self.tick_us is not None and not 0 < self.tick_us <= MAX_STEP_US:
            raise ValueError("a tick takes more than 0 microseconds")
        if self.step is not None and self.step < 1:
            raise ValueError("the step between two messages is at least one tick")


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """How a stream of messages is read: its decoder, the decoder's options, the step.

    `step_us` is the declared time between two messages in microseconds (None: undeclared,
    then no time gap is looked for), `clock` the device's own counter (None: ticks, if there
    are any, are kept and nothing is made of them). An empty `channels` means: as the messages
    come. Raises
    ValueError for a step that is not 1 microsecond to 100 years, or a channel named twice.
    """

    source: str = "main"
    decoder: str = "json"
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    step_us: int | None = None
    channels: tuple[Channel, ...] = ()
    clock: TickClock | None = None

    def __post_init__(self) -> None:
        if self.step_us is not None and not 1 <= self.step_us <= MAX_STEP_US:
            raise ValueError("a step is 1 microsecond to 100 years")
        names = [channel.name for channel in self.channels]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the channel {twice!r} is declared twice")


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a capture store knows of one session. Times are UTC; `ended` is None while running.

    `origin` names what was captured when that has a name of its own, such as
    ``sha256:...`` of a replayed file. `level` is the acknowledgement level that the session
    was started with.
    """

    store_id: str
    number: int
    instrument: str
    user: str
    state: CaptureState
    started: datetime
    ended: datetime | None = None
    origin: str | None = None
    level: Level = "stored"

    @property
    def global_name(self) -> str:
        """Return the session's name everywhere: ``capture:<store id>:<number>``."""
        return f"capture:{self.store_id}:{self.number}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive messages of one stream, as a capture store keeps them.

    `raw` is all messages end to end; `lengths` their sizes in bytes as packed uint32,
    `times_us` the UTC time of each as packed int64, `ticks` the device's own counter of each
    as packed int64, or empty; all little-endian, as on every machine that keepline runs on.
    `wall_us` and `monotonic_ns` are the host's clocks when the chunk was closed.
    """

    first_seq: int
    lengths: bytes
    times_us: bytes
    ticks: bytes
    raw: bytes
    wall_us: int
    monotonic_ns: int
    crc: int

    @classmethod
    def of(
        cls,
        first_seq: int,
        messages: list[bytes],
        times_us: array[int],
        ticks: array[int] | None,
        *,
        wall_us: int,
        monotonic_ns: int,
    ) -> Chunk:
        """Pack `messages` into a chunk; the CRC covers everything that identifies them."""
        lengths = array("I", map(len, messages)).tobytes()
        packed_times = times_us.tobytes()
        packed_ticks = ticks.tobytes() if ticks is not None else b""
        raw = b"".join(messages)
        crc = cls.checksum(first_seq, lengths, packed_times, packed_ticks, raw)
        return cls(first_seq, lengths, packed_times, packed_ticks, raw, wall_us, monotonic_ns, crc)

    @staticmethod
    def checksum(first_seq: int, lengths: bytes, times: bytes, ticks: bytes, raw: bytes) -> int:
        """Return the CRC-32 of a chunk's content and place."""
        crc = zlib.crc32(first_seq.to_bytes(8, "little"))
        for part in (lengths, times, ticks, raw):
            crc = zlib.crc32(part, crc)
        return crc

    @property
    def count(self) -> int:
        """Return the number of messages."""
        return len(self.lengths) // 4

    @property
    def last_seq(self) -> int:
        """Return the sequence number of the last message."""
        return self.first_seq + self.count - 1

    @property
    def intact(self) -> bool:
        """Return whether the content still has the CRC that it was stored with."""
        found = self.checksum(self.first_seq, self.lengths, self.times_us, self.ticks, self.raw)
        return found == self.crc

    def times(self) -> array[int]:
        """Return the time of each message in UTC microseconds."""
        return array("q", self.times_us)

    def messages(self) -> Iterator[bytes]:
        """Yield each message's bytes in order."""
        position = 0
        for length in array("I", self.lengths):
            yield self.raw[position : position + length]
            position += length


@dataclass(frozen=True, slots=True)
class Loss:
    """Messages of a stream that are known to be lost, from `first_seq` to `last_seq`.

    Their numbers are not given to others. `at_us` is when that became known, in UTC
    microseconds.
    """

    first_seq: int
    last_seq: int
    reason: str
    at_us: int

    @property
    def count(self) -> int:
        """Return the number of messages."""
        return self.last_seq - self.first_seq + 1
