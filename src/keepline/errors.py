"""Every exception that keepline raises, in one tree.

::

    KeeplineError
    ├── ConfigError
    ├── NoInstanceError
    ├── InstanceError
    │   ├── SchemaTooNewError
    │   ├── SchemaBehindError
    │   └── StoreBusyError
    ├── CaptureError
    │   ├── NoSessionError
    │   ├── SessionClosedError
    │   ├── StreamLockedError
    │   ├── ChunkConflictError
    │   ├── ChunkDamagedError
    │   ├── MessageTooLargeError
    │   ├── CaptureWriteError
    │   ├── SpoolFullError
    │   ├── CaptureTimeoutError
    │   ├── AlreadyCapturedError
    │   ├── UnsupportedLevelError
    │   ├── TrimmedError
    │   ├── IngestError
    │   └── ReplayError
    ├── DecodeError
    ├── SessionLogError
    │   ├── UnknownInstrumentError
    │   └── UnknownSessionError
    ├── RecordError
    │   ├── DeclarationError
    │   ├── UnknownRecordTypeError
    │   ├── RecordNotFoundError
    │   ├── UnknownFieldError
    │   ├── ReadOnlyFieldError
    │   ├── InvalidRecordError
    │   ├── ForbiddenError
    │   └── ConflictError
    ├── DeliveryError
    │   ├── UnknownRecipientError
    │   ├── RecipientBusyError
    │   └── TransportError
    ├── DownloadError
    │   └── UnknownFormatError
    ├── PluginError
    ├── Warning                       PEP 249
    └── Error                         PEP 249
        ├── InterfaceError
        └── DatabaseError
            ├── DataError
            ├── OperationalError
            │   └── ModuleUnavailable
            ├── IntegrityError
            ├── InternalError
            ├── ProgrammingError
            └── NotSupportedError

A class's docstring is its message when it is raised without one. Every message is one
line that says what to do; none holds a secret or a subject's data.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any


class KeeplineError(Exception):
    """keepline cannot do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class ConfigError(KeeplineError):
    """The settings are not valid; see keepline.toml."""


class NoInstanceError(KeeplineError):
    """No instance is open: call keepline.open_instance(path), or pass instance=."""


class InstanceError(KeeplineError):
    """The folder is not a usable keepline instance; `keepline init` makes one."""


class SchemaTooNewError(InstanceError):
    """The instance was made by a newer keepline; upgrade keepline to open it."""


class SchemaBehindError(InstanceError):
    """The instance's schema is older than this keepline; run `keepline migrate`."""


class StoreBusyError(InstanceError):
    """Another program holds the SQL store's write lock; try again."""


class CaptureError(KeeplineError):
    """A reading could not be taken in."""


class NoSessionError(CaptureError):
    """There is no such capture session."""


class SessionClosedError(CaptureError):
    """The capture session has ended and takes no more data; start a new one."""


class StreamLockedError(CaptureError):
    """Another writer holds this stream."""


class ChunkConflictError(CaptureError):
    """This sequence range is already stored with other content.

    `following` is the number of the next new message, where the store told it.
    """

    def __init__(self, message: str | None = None, *, following: int | None = None) -> None:
        super().__init__(message)
        self.following = following


class ChunkDamagedError(CaptureError):
    """A stored chunk no longer has the content that it was stored with.

    It held the messages `first_seq` to `last_seq`; `raw` are the bytes that are there now.
    """

    def __init__(
        self, message: str | None = None, *, first_seq: int, last_seq: int, raw: bytes
    ) -> None:
        super().__init__(message)
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.raw = raw


class MessageTooLargeError(CaptureError):
    """The message is larger than a capture store takes."""


class CaptureWriteError(CaptureError):
    """The capture store refused a chunk; the messages that it held are not stored."""


class SpoolFullError(CaptureError):
    """The capture store cannot be reached, and its spool is full; this message is not taken."""


class CaptureTimeoutError(CaptureError):
    """The message was not acknowledged within the given time."""


class AlreadyCapturedError(CaptureError):
    """This origin is captured already."""


class UnsupportedLevelError(CaptureError):
    """The capture store cannot keep this acknowledgement level."""


class TrimmedError(CaptureError):
    """These messages are no longer in the capture store; the archive has them."""


class IngestError(CaptureError):
    """Messages cannot be taken in this way."""


class ReplayError(CaptureError):
    """The file cannot be replayed."""


class DecodeError(KeeplineError):
    """The message does not have the form that its decoder reads."""


class SessionLogError(KeeplineError):
    """The session log refuses this event."""


class UnknownInstrumentError(SessionLogError):
    """The session log knows no such instrument."""


class UnknownSessionError(SessionLogError):
    """The session log knows no such session."""


class RecordError(KeeplineError):
    """The record cannot be read or saved."""


class DeclarationError(RecordError):
    """The declaration of a record type is not valid, or cannot be applied.

    `mistakes` has a line for each thing that is wrong; the message is the first.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        super().__init__(f"{mistakes[0]}{more}")
        self.mistakes = tuple(mistakes)


class UnknownRecordTypeError(RecordError):
    """No record type of this name is declared."""


class RecordNotFoundError(RecordError):
    """There is no such record, or it is not yours to see."""


class UnknownFieldError(RecordError, KeyError):
    """The record has no such field."""

    __str__ = Exception.__str__  # KeyError's would put the message in quotes


class ReadOnlyFieldError(RecordError):
    """The field cannot be set."""


class InvalidRecordError(RecordError):
    """A value breaks a rule of the record type."""


class ForbiddenError(RecordError):
    """You may not change this record."""


class ConflictError(RecordError):
    """Somebody else changed the same fields; see the error's `conflict`."""

    def __init__(self, message: str | None = None, *, conflict: Any = None) -> None:
        super().__init__(message)
        self.conflict = conflict


class DeliveryError(KeeplineError):
    """Records could not be delivered."""


class UnknownRecipientError(DeliveryError):
    """keepline.toml declares no such recipient."""


class RecipientBusyError(DeliveryError):
    """Another process is delivering to this recipient."""


class TransportError(DeliveryError):
    """The recipient did not take the record.

    `permanent`: this revision will never be taken, so trying again is no use. `unreachable`:
    the recipient as a whole is out of order, so other records need not be tried now, and it
    is not known whether this one arrived.
    """

    def __init__(
        self, message: str | None = None, *, permanent: bool = False, unreachable: bool = False
    ) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.unreachable = unreachable


class DownloadError(KeeplineError):
    """The download cannot be made."""


class UnknownFormatError(DownloadError):
    """There is no such download format."""


class PluginError(KeeplineError):
    """A plug-in of this name is not installed."""


class Warning(KeeplineError):  # noqa: N818 - PEP 249 fixes the name
    """Something that the user should know happened (PEP 249)."""


class Error(KeeplineError):
    """The query failed (PEP 249)."""


class InterfaceError(Error):
    """The query interface was used wrongly (PEP 249)."""


class DatabaseError(Error):
    """A module could not answer (PEP 249)."""


class DataError(DatabaseError):
    """A value does not fit (PEP 249)."""


class OperationalError(DatabaseError):
    """A module or its data is out of order (PEP 249)."""


class IntegrityError(DatabaseError):
    """A relation between tables would break (PEP 249)."""


class InternalError(DatabaseError):
    """The query engine is in a state that it should not be in (PEP 249)."""


class ProgrammingError(DatabaseError):
    """The query is wrong (PEP 249)."""


class NotSupportedError(DatabaseError):
    """The query asks for something that is not supported (PEP 249)."""


class ModuleUnavailable(OperationalError):  # noqa: N818 - the seed page fixes the name
    """A query module is unavailable, perhaps only for a moment.

    `ready` answers whether the module can be asked again; `when_ready` polls it.
    """

    def __init__(self, module_name: str, ready: Callable[[], bool] | None = None) -> None:
        super().__init__(f"module {module_name!r} is unavailable; try again later")
        self.module_name = module_name
        self._ready = ready or (lambda: True)

    def when_ready(self, callback: Callable[[], None] | None = None, timeout: float = 5) -> None:
        """Call `callback` once the module may be back, or after `timeout` seconds.

        Without a callback, block the caller instead. Trying again may fail again.
        """
        if callback is None:
            self._wait(timeout)
            return

        def wait_and_call() -> None:
            self._wait(timeout)
            callback()

        threading.Thread(target=wait_and_call, daemon=True, name="keepline-when-ready").start()

    def _wait(self, timeout: float) -> None:
        waiter = threading.Event()
        step = min(0.05, timeout)
        waited = 0.0
        while waited < timeout and not self._ready():
            waiter.wait(step)
            waited += step
