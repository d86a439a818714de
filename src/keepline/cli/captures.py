"""Commands about live capture sessions."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keepline.cli.root import Json, app, open_here

if TYPE_CHECKING:
    from keepline.app.captures import SessionReport
    from keepline.capture.tail import Tail
    from keepline.model import SessionInfo

capture = typer.Typer(no_args_is_help=True, help="Record, and look at live capture sessions.")
app.add_typer(capture, name="capture")

Number = Annotated[int, typer.Argument(help="The session's number.", min=1)]
Source = Annotated[str, typer.Option(help="The stream of the session.")]


class Level(StrEnum):
    """How safe an acknowledged message is."""

    accepted = "accepted"
    stored = "stored"
    fsynced = "fsynced"
    archived = "archived"


class Form(StrEnum):
    """What files a session can be exported to."""

    csv = "csv"
    parquet = "parquet"


@capture.command()
def start(
    stream: Annotated[
        str,
        typer.Option(help="What is recorded: a [streams.NAME] of keepline.toml, or a TOML file."),
    ],
    level: Annotated[Level | None, typer.Option(help="How safe an acknowledged line is.")] = None,
    user: Annotated[str, typer.Option(help="Who measures.")] = "",
    json: Json = False,
) -> None:
    """Record standard input, a message a line, as a session.

    Empty lines are no messages. Ctrl-C and `keepline capture stop` end it as well; what was
    read by then is stored.
    """
    from keepline.app import captures
    from keepline.app.recorder import recorder
    from keepline.cli import report
    from keepline.cli.input import interruption, standard_input

    with open_here() as instance, recorder(instance, stream, user=user) as server:
        number = server.start_session(level=None if level is None else level.value)
        if not json:
            report.say(f"Recording capture session {number}.")
        with report.progress(quiet=json) as shown:
            task = shown.add_task("recording", total=None, note="")
            with interruption() as interrupted:
                taken = captures.record(
                    server,
                    standard_input(lambda: interrupted.is_set() or server.stop_requested),
                    lambda n: shown.update(task, note=f"{n} lines"),
                )
        info = server.stop_session()
        (kept,) = captures.show(instance, number).streams
    lost = sum(loss.count for loss in kept.losses)
    if json:
        session = {**asdict(info), "name": info.global_name}
        report.emit({"session": session, "read": taken, "messages": kept.messages, "lost": lost})
    else:
        report.say(f"Capture session {number} is {info.state}: {kept.messages} messages.")
        if lost:
            report.warn(f"{lost} messages are lost; `keepline capture show {number}` says which")


@capture.command("list")
def list_(json: Json = False) -> None:
    """List the sessions of the capture store."""
    with open_here() as instance:
        _show_sessions("Capture sessions", instance.capture_store.sessions(), json=json)


@capture.command()
def recover(json: Json = False) -> None:
    """Close the sessions whose recorder died, and no others.

    What their recorders left in the spool is brought in first, and what the capture store then
    holds is archived. On Redis a recorder whose lease ran out is given one more, ten seconds,
    to come back.
    """
    from keepline.app import pipeline
    from keepline.cli import report

    with open_here() as instance:
        _show_sessions("Recovered sessions", pipeline.recover(instance), json=json)
        for info in instance.capture_store.sessions():
            if info.state == "running" and not json:
                report.say(
                    f"Capture session {info.number} is left alone: its recorder lives, or its "
                    "lease has not ended yet."
                )


@capture.command()
def stop(
    number: Number,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the recorder.", min=0, max=3600)
    ] = 30.0,
    json: Json = False,
) -> None:
    """End a running session; its recorder stores what it took."""
    from keepline.app import captures

    with open_here() as instance:
        _show_sessions("Stopped", [captures.stop(instance, number, timeout_s=timeout)], json=json)


@capture.command()
def show(number: Number, json: Json = False) -> None:
    """Show a session: streams, losses, and what is archived."""
    from keepline.app import captures
    from keepline.cli import report

    with open_here() as instance:
        found = captures.show(instance, number)
    if json:
        report.emit(asdict(found))
    else:
        _show_session(found)


@capture.command()
def tail(
    number: Number,
    source: Source = "main",
    start: Annotated[
        int | None,
        typer.Option("--from", help="The first message; else the last ten are shown.", min=0),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the session ends.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a batch of messages.")
    ] = False,
) -> None:
    """Print a session's messages, and say where some are lost."""
    from keepline.app import captures

    with open_here() as instance:
        for item in captures.tail(instance, number, source=source, start=start, follow=follow):
            _print_item(item, json=json)


@capture.command()
def delete(
    number: Number,
    force: Annotated[
        bool, typer.Option("--force", help="Also messages that are not archived.")
    ] = False,
    archive: Annotated[
        bool, typer.Option("--archive", help="Remove it from the archive as well.")
    ] = False,
) -> None:
    """Remove a session and its messages from the capture store."""
    from keepline.app import captures
    from keepline.cli import report

    with open_here() as instance:
        captures.delete(instance, number, force=force, archive=archive)
    report.say(f"Capture session {number} is deleted; its number is not used again.")


@capture.command()
def export(
    number: Number,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    form: Annotated[
        Form | None, typer.Option("--format", help="Else the ending of FILE says it.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Only this stream; may be given several times.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    json: Json = False,
) -> None:
    """Write an archived session to a CSV or Parquet file."""
    from keepline.app import captures
    from keepline.cli import report

    if form is None:
        try:
            form = Form(path.suffix.removeprefix("."))
        except ValueError:
            raise typer.BadParameter(
                f"{path.name} ends neither in .csv nor in .parquet; add --format"
            ) from None
    with open_here() as instance, report.progress(quiet=json) as shown:
        task = shown.add_task("writing", total=None, note=path.name)
        rows = captures.export(
            instance,
            number,
            path,
            form=form.value,
            sources=source,
            overwrite=overwrite,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    if json:
        report.emit({"path": path, "rows": rows})
    else:
        report.say(f"{path}  ({rows} rows)")


def _show_sessions(title: str, sessions: list[SessionInfo], *, json: bool) -> None:
    from keepline.cli import report

    if json:
        report.emit({"sessions": [{**asdict(s), "name": s.global_name} for s in sessions]})
        return
    report.table(
        title,
        ("number", "instrument", "user", "state", "started", "ended"),
        ((s.number, s.instrument, s.user, s.state, s.started, s.ended) for s in sessions),
    )


def _show_session(found: SessionReport) -> None:
    from keepline.cli import report

    _show_sessions("Capture session", [found.session], json=False)
    report.table(
        "Streams",
        ("source", "decoder", "messages", "lost", "archived up to", "trimmed up to"),
        (
            (
                each.source,
                each.decoder,
                each.messages,
                sum(loss.count for loss in each.losses),
                each.archived_seq if each.archived_seq >= 0 else None,
                each.trimmed_seq if each.trimmed_seq >= 0 else None,
            )
            for each in found.streams
        ),
    )
    kept = found.archive
    if kept is None:
        report.say("The archive has nothing of it yet; run `keepline archive`.")
        return
    gaps = ", ".join(f"{count} {kind}" for kind, count in kept.gaps.items()) or "none"
    report.say(
        f"Archived: {kept.state}; {kept.messages} messages, {kept.readings} readings, "
        f"{kept.quarantined} quarantined, {kept.lost} lost; gaps: {gaps}."
    )
    for source, first, last, reason in kept.missing:
        report.say(f"Missing from {source}: {first} to {last} ({reason})")


def _print_item(item: Tail, *, json: bool) -> None:
    from keepline.cli import report

    if json:
        shown = {
            "epoch": item.epoch,
            "first_seq": item.first_seq,
            "next_seq": item.next_seq,
            "messages": [message.decode(errors="backslashreplace") for message in item.messages],
            "times_us": item.times_us.tolist(),
            "loss": None if item.loss is None else asdict(item.loss),
            "state": item.state,
        }
        sys.stdout.write(dumps(shown) + "\n")
    else:
        for message in item.messages:
            sys.stdout.buffer.write(message + b"\n")
        if item.loss is not None:
            lost = item.loss
            report.warn(f"messages {lost.first_seq} to {lost.last_seq} are lost: {lost.reason}")
    sys.stdout.flush()
