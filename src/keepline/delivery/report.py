"""What a run of deliveries did."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Failures told one by one; the sent log has all of them.
TOLD = 100


@dataclass(slots=True)
class RecipientReport:
    """What a run did for one recipient.

    `sent` records arrived; `failed` did not, of which `refused` never will and are tried again
    only when they change; `withdrawn` were taken back, as their subjects are erased; `resolved`
    attempts without outcome got one; `gone` were deleted or may not be seen; `remaining` are
    still due. `held_back` changes cannot be looked at yet: on PostgreSQL the feed is complete
    only up to the oldest open transaction of the server.
    `failures` holds (record, reason) of the first hundred; `error` says why the run ended early.
    """

    recipient: str
    sent: int = 0
    failed: int = 0
    refused: int = 0
    withdrawn: int = 0
    resolved: int = 0
    gone: int = 0
    remaining: int = 0
    held_back: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Return whether everything that could go out did."""
        return self.error is None and not self.failed

    def fail(self, record: str, reason: str) -> None:
        """Count a record that did not arrive."""
        self.failed += 1
        if len(self.failures) < TOLD:
            self.failures.append((record, reason))


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What a run did, by recipient, in the order of the run."""

    recipients: dict[str, RecipientReport]

    @property
    def ok(self) -> bool:
        """Return whether everything that could go out did, to every recipient."""
        return all(each.ok for each in self.recipients.values())
