"""Commands that take readings in from networks and devices."""

from __future__ import annotations

import json as json_lines
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepline.cli.captures import Level
from keepline.cli.root import app, open_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepline.capture.ingest.feeder import Totals
    from keepline.capture.ingest.way import Way
    from keepline.config import IngestSettings
    from keepline.model import SessionInfo

ingest = typer.Typer(
    no_args_is_help=True, help="Take readings in from networks and devices, a session a run."
)
app.add_typer(ingest, name="ingest")

#: Whoever waits for an acknowledgement waits this long for others to share the commit.
_LINGER_S = 0.005

Stream = Annotated[
    str,
    typer.Option(help="What is recorded: a [streams.NAME] of keepline.toml, or a TOML file."),
]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65_535)]
LevelOption = Annotated[Level | None, typer.Option(help="How safe an acknowledged message is.")]
User = Annotated[str, typer.Option(help="Who measures.")]
Seconds = Annotated[
    float | None, typer.Option(help="Stop after so long; else Ctrl-C stops it.", min=0)
]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print one JSON object at the start and one at the end.")
]


@ingest.command()
def tcp(
    stream: Stream,
    host: Host = "127.0.0.1",
    port: Port = 0,
    level: LevelOption = None,
    user: User = "",
    seconds: Seconds = None,
    json: JsonLines = False,
) -> None:
    """Take the lines of TCP clients, a message each.

    A client's first line is `token SECRET`, or `token SECRET ack` when it wants to be told how
    many of its lines are safe.
    """

    def way(settings: IngestSettings) -> Way:
        from keepline.capture.ingest.tcp import TcpLines

        return TcpLines(settings, host=host, port=port)

    _run(way, stream, level=level, user=user, seconds=seconds, json=json)


@ingest.command()
def http(
    stream: Stream,
    host: Host = "127.0.0.1",
    port: Port = 0,
    level: LevelOption = None,
    user: User = "",
    seconds: Seconds = None,
    json: JsonLines = False,
) -> None:
    """Take messages by HTTP, from InfluxDB's clients too.

    POST /api/v1/ingest takes a message a line; POST /api/v2/write and /write are InfluxDB's.
    What is answered with 204 is safe.
    """

    def way(settings: IngestSettings) -> Way:
        _need("starlette", "uvicorn", extra="http")
        from keepline.capture.ingest.http import HttpMessages

        return HttpMessages(settings, host=host, port=port)

    _run(way, stream, level=level, user=user, seconds=seconds, json=json)


@ingest.command()
def mqtt(
    stream: Stream,
    topic: Annotated[list[str], typer.Option(help="A topic or a filter; may be given again.")],
    host: Annotated[str, typer.Option(help="The broker.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Its port; else 1883, or 8883 with TLS.", min=1, max=65_535)
    ] = None,
    client_id: Annotated[
        str | None, typer.Option(help="By what the broker knows us again; else keepline-STREAM.")
    ] = None,
    broker_user: Annotated[
        str,
        typer.Option(help="The broker's user; the password is KEEPLINE_INGEST__MQTT_PASSWORD."),
    ] = "",
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt, and check the broker.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(help="Who signed the broker's certificate; implies --tls.")
    ] = None,
    level: LevelOption = None,
    user: User = "",
    seconds: Seconds = None,
    json: JsonLines = False,
) -> None:
    """Take the messages of topics of an MQTT broker.

    The broker keeps what is published while nobody is here, and sends again what was not
    acknowledged. With a wildcard, or several topics, each topic is a source of its own.
    """

    def way(settings: IngestSettings) -> Way:
        _need("paho.mqtt", extra="mqtt")
        from keepline.capture.ingest.mqtt import Broker, MqttMessages

        broker = Broker(
            host,
            port or (8883 if tls or ca_file else 1883),
            client_id or f"keepline-{Path(stream).stem}",
            broker_user,
            settings.mqtt_password,
            tls=tls or ca_file is not None,
            ca_file=ca_file,
        )
        return MqttMessages(broker, topic, max_message_kb=settings.max_message_kb)

    _run(way, stream, level=level, user=user, seconds=seconds, json=json)


@ingest.command()
def serial(
    stream: Stream,
    device: Annotated[str, typer.Option(help="Such as /dev/ttyUSB0 or COM3.")],
    baud: Annotated[int, typer.Option(help="Bits a second.", min=50)] = 9600,
    level: LevelOption = None,
    user: User = "",
    seconds: Seconds = None,
    json: JsonLines = False,
) -> None:
    """Take the lines of a serial port, a message each.

    When the device is unplugged, the session goes on when it is back.
    """

    def way(settings: IngestSettings) -> Way:
        _need("serial", extra="serial")
        from keepline.capture.ingest.serial import SerialLines

        return SerialLines(device, baud=baud, max_message_kb=settings.max_message_kb)

    _run(way, stream, level=level, user=user, seconds=seconds, json=json)


def _run(
    way: Callable[[IngestSettings], Way],
    stream: str,
    *,
    level: Level | None,
    user: str,
    seconds: float | None,
    json: bool,
) -> None:
    """Run a way in until it is stopped, and tell what it took."""
    import asyncio

    from keepline.app.recorder import input_quarantine, recorder
    from keepline.capture.ingest.feeder import Feeder
    from keepline.capture.ingest.run import run
    from keepline.cli import report

    with open_here() as instance, report.progress(quiet=json) as shown:
        task = shown.add_task("ingesting", total=None, note="")
        entrance = way(instance.settings.ingest)
        server = recorder(instance, stream, user=user, linger_s=_LINGER_S)

        async def serve() -> Totals:
            feeder = Feeder(
                server,
                input_quarantine(instance),
                level=None if level is None else level.value,
                linger_s=_LINGER_S,
            )
            return await run(
                feeder,
                entrance,
                seconds=seconds,
                started=lambda info, address: _started(info, address, json=json),
                progress=lambda taken, rejected: shown.update(
                    task, note=f"{taken} messages, {rejected} quarantined"
                ),
            )

        totals = asyncio.run(serve())
    _ended(totals, getattr(entrance, "sources", {}), json=json)


def _started(info: SessionInfo, address: str, *, json: bool) -> None:
    from keepline.cli import report

    if json:
        _line({"session": info.number, "name": info.global_name, "address": address})
    else:
        report.say(f"Recording capture session {info.number} from {address}")
        sys.stdout.flush()


def _ended(totals: Totals, topics: dict[str, str], *, json: bool) -> None:
    from keepline.cli import report

    info = totals.session
    if json:
        _line(
            {
                "session": info.number,
                "name": info.global_name,
                "state": info.state,
                "messages": totals.messages,
                "quarantined": totals.quarantined,
                "sources": totals.sources,
                "topics": topics,
            }
        )
        return
    report.say(
        f"Capture session {info.number} is {info.state}: {totals.messages} messages, "
        f"{totals.quarantined} inputs quarantined."
    )
    if len(totals.sources) > 1:
        report.table(
            "Sources",
            ("source", "messages", "topic"),
            ((name, count, topics.get(name)) for name, count in totals.sources.items()),
        )


def _line(value: dict[str, Any]) -> None:
    sys.stdout.write(json_lines.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _need(*modules: str, extra: str) -> None:
    """Raise PluginError, saying what to install, unless the modules are there."""
    import importlib

    from keepline.errors import PluginError

    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            raise PluginError(
                f"{module} is not installed: pip install 'keepline[{extra}]'"
            ) from None
