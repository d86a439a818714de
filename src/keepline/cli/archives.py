"""Commands that move readings into the archive: replay, archive, and what could not be read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keepline.cli.root import Json, app, open_here

if TYPE_CHECKING:
    from keepline.app.pipeline import ArchiveReport, ReplayReport

#: So much of quarantined input is shown in a table; --json has all of it.
_SHOWN_BYTES = 80


@app.command()
def replay(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV files, one session each.")
    ],
    instrument: Annotated[str, typer.Option(help="The instrument that measured.")],
    tz: Annotated[str, typer.Option(help="The IANA zone of times without an offset.")],
    time_column: Annotated[str, typer.Option(help="The column that holds the time.")],
    delimiter: Annotated[str, typer.Option(help="What separates the columns.")] = ",",
    step: Annotated[
        float | None,
        typer.Option(
            help="Seconds between two rows; else the commonest step is taken.", min=1e-6, max=3e9
        ),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            help="Times as fast as it was measured; else as fast as it goes.", min=1e-3, max=1e9
        ),
    ] = None,
    user: Annotated[str, typer.Option(help="Who measured.")] = "",
    json: Json = False,
) -> None:
    """Replay CSV files into records, one session a file.

    The first line names the columns; each further line is one row, which a quoted field
    cannot carry on to the next line.
    """
    from keepline.app import pipeline
    from keepline.cli import report

    with open_here() as instance, report.progress(quiet=json) as shown:
        task = shown.add_task("replaying", total=len(files), note="")

        def step_done(file: Path, done: int) -> None:
            shown.update(task, completed=done, note=file.name)

        result = pipeline.replay(
            instance,
            files,
            instrument=instrument,
            tz=tz,
            time_column=time_column,
            delimiter=delimiter,
            step_s=step,
            speed=speed,
            user=user,
            progress=step_done,
        )
    if json:
        report.emit(asdict(result))
    elif result.files:
        _show_replay(instrument, result)
    for file, reason in result.failed:
        report.warn(reason if file in reason else f"{file}: {reason}")
    if result.failed:
        raise typer.Exit(2)


def _show_replay(instrument: str, result: ReplayReport) -> None:
    from keepline.cli import report

    inferred = any(each.inferred for each in result.files)
    step = "step (inferred)" if inferred else "step"
    report.table(
        f"Replayed to {instrument}",
        ("file", "session", "rows", "readings", step, "gaps", "disorder", "quarantined"),
        (
            (each.file.name, each.session.number, "replayed before", *[None] * 5)
            if each.already
            else (
                each.file.name,
                each.session.number,
                each.archived.messages,
                each.archived.readings,
                None if each.step_us is None else f"{each.step_us / 1e6:g} s",
                each.archived.gaps,
                each.archived.disorder,
                each.archived.quarantined,
            )
            for each in result.files
        ),
    )
    report.say(
        f"{result.readings_archived} readings in {result.sessions} sessions; "
        f"{result.gaps} gaps, {result.disorder} out of order, "
        f"{result.overlaps} pairs of sessions overlap in time, "
        f"{result.quarantined} rows quarantined; {result.records_built} records built."
    )


@app.command()
def archive(
    every: Annotated[
        float | None,
        typer.Option(help="Seconds between two rounds; go on until Ctrl-C.", min=0.1, max=86_400),
    ] = None,
    json: Json = False,
) -> None:
    """Archive captured readings and build their records.

    With --every this prints a line, or with --json one JSON object, for each round that
    found something new.
    """
    from keepline.cli.input import interruption

    if every is None:
        _archive_once(json=json)
        return
    with interruption() as interrupted:
        while not interrupted.is_set():
            _archive_round(json=json)
            interrupted.wait(every)


def _archive_once(*, json: bool) -> None:
    result = _archived()
    _show_archived(result, json=json)
    if result.failed:
        raise typer.Exit(2)


def _archive_round(*, json: bool) -> None:
    from keepline.cli import report
    from keepline.errors import KeeplineError

    try:
        result = _archived()
    except KeeplineError as error:  # a store may be away for a while
        report.warn(str(error))
        return
    if result.sessions or result.failed:
        _show_archived(result, json=json)


def _archived() -> ArchiveReport:
    from keepline.app import pipeline
    from keepline.cli import report

    with open_here() as instance, report.progress(quiet=False) as shown:
        task = shown.add_task("archiving", total=None, note="")
        return pipeline.archive(
            instance,
            progress=lambda session, done, total: shown.update(
                task, completed=done, total=total, note=session
            ),
        )


def _show_archived(result: ArchiveReport, *, json: bool) -> None:
    from keepline.cli import report

    if json:
        report.emit(asdict(result))
    else:
        report.say(
            f"{result.messages} new messages archived from {result.sessions} sessions, which have "
            f"{result.readings} readings, {result.gaps} gaps and {result.quarantined} quarantined "
            f"messages in all; {result.records_built} records built."
        )
    for session, reason in result.failed:
        report.warn(f"{session}: {reason}")


@app.command()
def quarantine(json: Json = False) -> None:
    """Show the input that could not be taken, and why."""
    from keepline.app import pipeline
    from keepline.cli import report

    with open_here() as instance:
        rows = list(pipeline.quarantined(instance))
    if json:
        report.emit({"quarantined": rows})
        return
    report.table(
        "Quarantined",
        ("part", "position", "reason", "raw", "origin"),
        ((r["part"], r["position"], r["reason"], _start(r["raw"]), r["origin"]) for r in rows),
    )


def _start(raw: bytes) -> str:
    shown = raw[:_SHOWN_BYTES].decode(errors="replace")
    return shown if len(raw) <= _SHOWN_BYTES else f"{shown}... ({len(raw)} bytes)"
