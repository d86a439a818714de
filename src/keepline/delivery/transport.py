"""What a way to a recipient must offer, as the dispatcher needs it.

A transport is found by name through the entry points ``keepline.transports``; the entry is a
class with `configured`. `keepline.testing.transports` has the suite that each must pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from keepline.config import RecipientSettings
from keepline.model import RecordImage, RecordType, stable_hash
from keepline.render.json import record_json


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a transport promises.

    `probes`: `delivered` knows the answer. `idempotent`: the same sending twice leaves the
    recipient as once does; then attempts are logged many at a time, else one by one, so that
    a crash leaves at most one sending whose outcome nobody knows. `withdraws`: it has
    `withdraw`, for records of subjects that were erased.
    """

    probes: bool = False
    idempotent: bool = False
    withdraws: bool = False


@dataclass(frozen=True, slots=True)
class Sending:
    """One revision of a record on its way to one recipient.

    `target_key` names the one object at the receiver that corrections update, `send_key` this
    sending: the same at every attempt.
    """

    image: RecordImage
    target_key: str
    send_key: str

    @property
    def revision(self) -> int:
        """Return the record's revision."""
        return self.image.revision

    @classmethod
    def of(cls, image: RecordImage, *, recipient: str, epoch: str) -> Sending:
        """Return the sending of `image` to the recipient called `recipient`, with its keys.

        Raises ValueError for content that cannot be written as UTF-8.
        """
        sending = cls.without_content(image, recipient=recipient, epoch=epoch)
        content = record_json(image)
        send_key = stable_hash(sending.target_key, str(image.revision), content)
        return cls(image, sending.target_key, send_key)

    @classmethod
    def without_content(cls, image: RecordImage, *, recipient: str, epoch: str) -> Sending:
        """Return a sending of a record that cannot be written, so that it can be logged."""
        target_key = stable_hash(recipient, epoch, str(image.name))
        return cls(image, target_key, stable_hash(target_key, str(image.revision)))


class Transport(Protocol):
    """A way to one recipient. Entering opens it, leaving closes it; used by one thread.

    Everything that goes wrong is a TransportError whose message holds no secret and no
    content. Any other exception is taken for a fault of the transport and fails the record.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @classmethod
    def configured(cls, settings: RecipientSettings, *, folder: Path) -> Self:
        """Return the transport that `settings` describe; nothing is opened or connected.

        Relative paths start at `folder`, the instance's. Raises ConfigError.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def send(self, sending: Sending) -> None:
        """Hand over one revision; when it returns, the recipient has it safely."""
        ...

    def delivered(self, send_key: str) -> bool | None:
        """Return whether the recipient has this sending; None when it cannot answer."""
        ...


class Withdrawing(Protocol):
    """What a transport with the capability `withdraws` has besides."""

    def withdraw(self, declared: RecordType, target_key: str) -> None:
        """Remove one object, in all its revisions, from the recipient; it may be gone already."""
        ...
