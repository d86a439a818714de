"""What every transport must hold, and a faulty one that drives the dispatcher's tests.

A plug-in's author runs the suite with pytest::

    class TestMyTransport(TransportConformance):
        def transport(self, folder): ...
        def received(self, folder): ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from keepline.config import RecipientSettings
from keepline.delivery.transport import Capabilities, Sending, Transport
from keepline.errors import TransportError
from keepline.model import Field, RecordImage, RecordType, SubTable
from keepline.render.json import plain

#: A record type with a field of each type, and rows beneath it, about subjects.
SAMPLE_TYPE = RecordType(
    name="sample",
    fields=(
        Field("title"),
        Field("runs", "integer"),
        Field("mean", "real", unit="mV"),
        Field("valid", "boolean"),
        Field("day", "date"),
        Field("taken_at", "datetime"),
        Field("extra", "json"),
        Field("scan", "blob"),
    ),
    subtables=(SubTable("peak", "name", (Field("height", "real"),)),),
    subject=True,
    finalised=True,
)

#: Keys that a transport has to take as they are, and to keep apart.
NASTY_KEYS = (
    "../../outside",
    "/etc/passwd",
    "a/b\\c",
    "nul\x01\x7fcontrol",
    "Messung Ä 測定 ⚗",
    "'; DROP TABLE keepline_sample; --",
    "Case",
    "case",
    "-rf",
    ".",
    "..",
    "x" * 2_000,
    "é" * 500,
)

_TAKEN_AT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)


def sample_record(
    key: str = "run-1",
    revision: int = 1,
    *,
    declared: RecordType = SAMPLE_TYPE,
    peaks: Sequence[tuple[str, float]] = (("first", 0.1), ("second", 2.5e-300)),
    values: Mapping[str, Any] = MappingProxyType({}),
) -> RecordImage:
    """Return a revision of a record of `declared`; `values` replace the sample's own."""
    fields = {
        "title": "a & b <c> \"d\" 'e'\n=1+1 é 測",
        "runs": 2**53 + 1,
        "mean": 0.1 + 0.2,
        "valid": True,
        "day": date(1899, 2, 28),
        "taken_at": _TAKEN_AT,
        "extra": {"list": [1, None, "x"], "deep": {"y": 1.5}},
        "scan": bytes(range(256)),
        **values,
    }
    rows = tuple({"name": name, "height": height} for name, height in peaks)
    about: dict[str, Any] = {"subject": 7, "finalised": True} if declared == SAMPLE_TYPE else {}
    return RecordImage(declared, key, revision, "lab", 1, 2, fields, {"peak": rows}, **about)


def sending_of(image: RecordImage) -> Sending:
    """Return the sending of `image` to a recipient called `suite`."""
    return Sending.of(image, recipient="suite", epoch="0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Received:
    """One object that a recipient holds, its values as JSON has them."""

    key: str
    revision: int
    fields: Mapping[str, Any]
    subrows: Mapping[str, Sequence[Mapping[str, Any]]]
    subject: int | None
    finalised: bool

    @classmethod
    def expected(cls, image: RecordImage) -> Self:
        """Return what a recipient should hold after `image` was sent."""
        return cls(
            image.key,
            image.revision,
            plain(image.values),
            plain(image.subrows),
            image.subject,
            image.finalised,
        )


class TransportConformance:
    """The tests; a subclass says how a transport is made and how its recipient is read."""

    def transport(self, folder: Path) -> Transport:
        """Return a new, closed transport to the one recipient that lives in `folder`."""
        raise NotImplementedError

    def unreachable(self, folder: Path) -> Transport:
        """Return a transport whose recipient cannot be reached."""
        raise NotImplementedError

    def received(self, folder: Path) -> Mapping[str, Received]:
        """Return what the recipient in `folder` holds, by target key."""
        raise NotImplementedError

    def send(self, folder: Path, *images: RecordImage) -> None:
        """Send `images` in order through one opening of the transport."""
        with self.transport(folder) as transport:
            for image in images:
                transport.send(sending_of(image))

    def holds(self, folder: Path, *images: RecordImage) -> None:
        """Raise AssertionError unless the recipient holds exactly `images`."""
        expected = {sending_of(image).target_key: Received.expected(image) for image in images}
        _same(self.received(folder), expected)

    def test_record_arrives_whole(self, tmp_path: Path) -> None:
        """Every field and every sub-row is there, with its value."""
        self.send(tmp_path, sample_record())
        self.holds(tmp_path, sample_record())

    def test_missing_values_stay_missing(self, tmp_path: Path) -> None:
        """A value that is not there is not an empty text or a zero."""
        values = dict.fromkeys((each.name for each in SAMPLE_TYPE.fields), None)
        empty = sample_record(values=values, peaks=())
        self.send(tmp_path, empty)
        self.holds(tmp_path, empty)

    def test_same_sending_twice_leaves_one_object(self, tmp_path: Path) -> None:
        """An attempt that is made again adds nothing."""
        self.send(tmp_path, sample_record(), sample_record())
        self.send(tmp_path, sample_record())
        self.holds(tmp_path, sample_record())

    def test_correction_updates_the_object(self, tmp_path: Path) -> None:
        """A later revision takes the place of the earlier one, its sub-rows too."""
        corrected = sample_record(
            revision=2, values={"title": "corrected"}, peaks=[("second", 7.0)]
        )
        self.send(tmp_path, sample_record())
        self.send(tmp_path, corrected)
        self.holds(tmp_path, corrected)

    def test_keys_of_any_form_are_kept_apart(self, tmp_path: Path) -> None:
        """Keys that are no file names, or alike but for case, are records of their own."""
        images = [sample_record(key) for key in NASTY_KEYS]
        self.send(tmp_path, *images)
        self.holds(tmp_path, *images)

    def test_nothing_is_written_outside_of_the_folder(self, tmp_path: Path) -> None:
        """A key never becomes a path."""
        inside = tmp_path / "deep" / "recipient"
        inside.mkdir(parents=True)
        self.send(inside, *(sample_record(key) for key in NASTY_KEYS))
        _same(list(tmp_path.iterdir()), [tmp_path / "deep"])
        _same(list((tmp_path / "deep").iterdir()), [inside])

    def test_delivered_answers_or_says_that_it_cannot(self, tmp_path: Path) -> None:
        """`delivered` tells the truth where the capabilities say so, and None elsewhere."""
        sending = sending_of(sample_record())
        with self.transport(tmp_path) as transport:
            probes = transport.capabilities.probes
            _same(transport.delivered(sending.send_key), False if probes else None)
            transport.send(sending)
        with self.transport(tmp_path) as transport:
            _same(transport.delivered(sending.send_key), True if probes else None)
            later = sending_of(sample_record(revision=2))
            _same(transport.delivered(later.send_key), False if probes else None)

    def test_opening_again_continues(self, tmp_path: Path) -> None:
        """One transport object can be opened and closed many times."""
        transport = self.transport(tmp_path)
        for number in range(3):
            with transport:
                transport.send(sending_of(sample_record(f"run-{number}")))
        self.holds(tmp_path, *(sample_record(f"run-{number}") for number in range(3)))

    def test_unreachable_recipient_is_one_clear_error(self, tmp_path: Path) -> None:
        """A recipient that is out of order is told in one line, as such."""
        try:
            with self.unreachable(tmp_path) as transport:
                transport.send(sending_of(sample_record()))
        except TransportError as error:
            _same(error.unreachable, True)
            _same(len(str(error).splitlines()), 1)
        else:
            raise AssertionError("the transport reached a recipient that is out of order")


class SimulatedCrash(BaseException):
    """The process dies here; nothing that catches errors may catch it."""


@dataclass
class FaultyTransport:
    """A recipient in memory that fails as it is told to.

    `before` and `after` map a record's key to what is raised, one an attempt, before or after
    the effect; records in `refused` are refused for good; while `down`, opening fails.
    `effects` lists the sendings that had an effect, in order; `objects` is what the recipient
    holds, by target key.
    """

    capabilities: Capabilities = field(
        default_factory=lambda: Capabilities(probes=True, idempotent=True)
    )
    before: dict[str, list[BaseException]] = field(default_factory=dict)
    after: dict[str, list[BaseException]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    down: bool = False
    effects: list[Sending] = field(default_factory=list)
    objects: dict[str, Sending] = field(default_factory=dict)

    @classmethod
    def configured(cls, settings: RecipientSettings, *, folder: Path) -> Self:
        """Return a transport without faults."""
        del settings, folder
        return cls()

    def __enter__(self) -> Self:
        if self.down:
            raise TransportError("the recipient is down", unreachable=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing: the memory stays."""

    def send(self, sending: Sending) -> None:
        """Take the record, or fail as told."""
        key = sending.image.key
        _raise_next(self.before, key)
        if key in self.refused:
            raise TransportError("refused for good", permanent=True)
        repeated = self.capabilities.idempotent and self.delivered_here(sending.send_key)
        if not repeated:
            self.effects.append(sending)
            self.objects[sending.target_key] = sending
        _raise_next(self.after, key)

    def delivered(self, send_key: str) -> bool | None:
        """Return whether this sending had its effect; None unless it `probes`."""
        return self.delivered_here(send_key) if self.capabilities.probes else None

    def delivered_here(self, send_key: str) -> bool:
        """Return whether this sending had its effect, whatever the recipient would say."""
        return any(each.send_key == send_key for each in self.effects)


def _raise_next(faults: dict[str, list[BaseException]], key: str) -> None:
    if faults.get(key):
        raise faults[key].pop(0)


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")
