"""The instance that names without one refer to.

`open_instance` sets a default for the whole process; `using` puts another one over it in one
context (a ContextVar alone would be empty in every new thread).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

from keepline.config import Settings
from keepline.errors import NoInstanceError
from keepline.store.engine import Store


class Current(Protocol):
    """What capabilities need of an instance: its folder, store, identity and settings."""

    @property
    def folder(self) -> Path: ...

    @property
    def store(self) -> Store: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def epoch(self) -> str: ...


_default: Current | None = None
_here: ContextVar[Current | None] = ContextVar("keepline_instance", default=None)


def current(instance: Current | None = None) -> Current:
    """Return `instance`, else the current one; raises NoInstanceError."""
    found = instance or _here.get() or _default
    if found is None:
        raise NoInstanceError
    return found


def set_default(instance: Current | None) -> None:
    """Make `instance` current everywhere in this process; None makes none current."""
    global _default
    _default = instance


def default() -> Current | None:
    """Return the process's default instance, if there is one."""
    return _default


@contextmanager
def using(instance: Current) -> Iterator[None]:
    """Make `instance` current within the block, in this context alone."""
    token = _here.set(instance)
    try:
        yield
    finally:
        _here.reset(token)
