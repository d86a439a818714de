"""Which acknowledgement levels a Redis or Valkey can keep, as it is set up now, and how."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keepline.capture.stores.redis_connection import RedisConnection, Sync
from keepline.capture.stores.stream_specs import check_level
from keepline.errors import CaptureError, UnsupportedLevelError
from keepline.model import LEVELS, Level

_OLDEST = (6, 2)
_WAITAOF = (7, 2)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """How one server is set up. `appendfsync` is None where the server does not tell."""

    version: tuple[int, ...]
    run_id: str
    policy: str
    appends: bool
    appendfsync: str | None
    fsync_on_rewrite: bool

    @property
    def fsyncs_each_write(self) -> bool:
        """Return whether each answer comes after the fsync of what it is about."""
        return self.appends and self.appendfsync == "always" and self.fsync_on_rewrite

    def refusal(self, level: Level) -> str | None:
        """Return why `level` cannot be kept, or None when it can."""
        if self.policy != "noeviction":
            return (
                f"its maxmemory-policy is {self.policy}, which removes data when memory is short; "
                "set it to noeviction"
            )
        if level in ("accepted", "archived"):
            return None
        if not self.appends:
            return "it keeps no append-only file; set appendonly yes"
        if level == "stored" or self.fsyncs_each_write or self.version >= _WAITAOF:
            return None
        if self.appendfsync is None:
            return (
                "its appendfsync cannot be verified, as CONFIG GET is not allowed, and WAITAOF "
                "needs Redis 7.2 or Valkey; allow one of them"
            )
        return (
            "its appendfsync is not always, and WAITAOF needs Redis 7.2 or Valkey; "
            "set appendfsync always and no-appendfsync-on-rewrite no"
        )


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """How the servers of a store are set up: one, or the primaries of a cluster."""

    servers: tuple[ServerFacts, ...]

    @property
    def nodes(self) -> str:
        """Return the runs of the servers in one word, which changes when one begins anew."""
        return " ".join(sorted(server.run_id for server in self.servers))

    @property
    def keeps_all(self) -> bool:
        """Return whether a restart cannot have lost anything that was acknowledged."""
        return all(server.fsyncs_each_write for server in self.servers)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Return the levels that can be kept, weakest first."""
        return tuple(level for level in LEVELS if self.refusal(level) is None)

    def refusal(self, level: Level) -> str | None:
        """Return why `level` cannot be kept, or None when it can."""
        reasons = (server.refusal(level) for server in self.servers)
        return next((reason for reason in reasons if reason is not None), None)

    def check(self, level: Level, place: str) -> None:
        """Raise UnsupportedLevelError, with the reason, unless `level` can be kept."""
        check_level(level)
        reason = self.refusal(level)
        if reason is not None:
            raise UnsupportedLevelError(
                f"the capture store at {place} cannot keep the level {level!r}: {reason}"
            )

    def sync(self, level: Level) -> Sync:
        """Return what a write has to wait for at `level`, as far as the servers can."""
        if level == "accepted" or not all(server.appends for server in self.servers):
            return "none"
        if level != "fsynced":
            return "written"
        if self.keeps_all or any(server.version < _WAITAOF for server in self.servers):
            return "none"
        return "fsynced"


def store_facts(connection: RedisConnection) -> StoreFacts:
    """Ask the servers how they are set up.

    Raises:
        CaptureError: a server is older than Redis 6.2.
        CaptureWriteError: a server does not answer.
    """
    with connection.translated():
        return StoreFacts(tuple(_facts(server) for server in connection.servers()))


def _facts(server: Any) -> ServerFacts:
    told: Any = server.info()
    version = tuple(map(int, _digits(str(told["redis_version"]).split("."))))
    if version < _OLDEST:
        raise CaptureError(
            f"a capture store needs Redis 6.2 or Valkey 8, this is {told['redis_version']}"
        )
    settings = _settings(server)
    return ServerFacts(
        version=version,
        run_id=str(told["run_id"]),
        policy=str(told.get("maxmemory_policy", "unknown")),
        appends=bool(told.get("aof_enabled")) and "aof_buffer_length" in told,
        appendfsync=settings.get("appendfsync"),
        fsync_on_rewrite=settings.get("no-appendfsync-on-rewrite") == "no",
    )


def _settings(server: Any) -> dict[str, str]:
    """Return the settings about fsync; none where CONFIG is forbidden or renamed."""
    from redis.exceptions import ResponseError

    try:
        found: Any = server.config_get("*appendfsync*")
    except ResponseError:
        return {}
    return {_text(name): _text(value) for name, value in found.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _digits(parts: Iterable[str]) -> list[str]:
    return [part for part in parts if part.isdigit()]
