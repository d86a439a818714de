"""Recording a declared stream of an instance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keepline.capture.declaration import read_declaration, stream_spec
from keepline.capture.server import CaptureServer
from keepline.config import StreamSettings
from keepline.errors import ConfigError
from keepline.model import Instrument, Principal
from keepline.sessions import add_instrument
from keepline.store import quarantine

if TYPE_CHECKING:
    from keepline.app.instance import Instance
    from keepline.capture.ingest.feeder import Quarantine


def recorder(
    instance: Instance,
    stream: str | StreamSettings,
    *,
    user: str = "",
    linger_s: float | None = None,
) -> CaptureServer:
    """Return a handle that records a stream into the instance's capture store.

    `stream` is its declaration, the NAME of a [streams.NAME] of keepline.toml, or the path of a
    TOML file; its instrument is made known if it is not. A chunk is written `linger_s` after
    its first message at the latest, or when the settings say so.

    Raises:
        ConfigError: there is no such stream, or it cannot be read like that.
        CaptureWriteError: the spool that the settings name cannot be opened.
    """
    settings = stream if isinstance(stream, StreamSettings) else declared(instance, stream)
    spec = stream_spec(settings)
    add_instrument(Instrument(settings.instrument), instance=instance)
    capture = instance.settings.capture
    return CaptureServer(
        instance.capture_store,
        settings.instrument,
        spec.source,
        user=user,
        spec=spec,
        linger_s=capture.linger_s if linger_s is None else min(linger_s, capture.linger_s),
        spool=instance.spool,
    )


def declared(instance: Instance, stream: str) -> StreamSettings:
    """Return the declaration of a stream by its name in keepline.toml, or from a TOML file.

    Raises ConfigError when there is neither.
    """
    streams = instance.settings.streams
    if stream in streams:
        return streams[stream]
    if stream.endswith(".toml") or "/" in stream:
        return read_declaration(Path(stream))
    known = ", ".join(sorted(streams)) or "none"
    raise ConfigError(
        f"keepline.toml declares no stream {stream!r}; there are: {known}; "
        "a TOML file that declares one can be named as well"
    )


def input_quarantine(instance: Instance) -> Quarantine:
    """Return what keeps input that cannot be a message in the instance's quarantine."""

    def keep(origin: str, rejected: list[tuple[int, bytes, str]]) -> int:
        with instance.store.write(Principal.system()) as connection:
            return quarantine.keep(connection, "ingest", origin, rejected)

    return keep
