"""Record types as they are declared in TOML files, and where declarations are found.

A file is read as a whole: whoever wrote it is told every mistake at once, each by its place.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_args

import pydantic
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Default

from keepline.errors import DeclarationError
from keepline.model import Field, FieldGroup, FieldType, RecordType, SubTable
from keepline.model.records import Scalar
from keepline.records import summaries
from keepline.store.tables.declared import mistakes_in

_SHIPPED = Path(__file__).parent / "shipped"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Field(_Part):
    type: FieldType = "text"
    unit: str | None = None
    comment: str = ""
    required: bool = False
    updatable: bool = True
    choices: list[str | int | float] = Default(default_factory=list)
    minimum: float | None = None
    maximum: float | None = None
    missing: dict[str, str] = Default(default_factory=dict)
    max_bytes: int | None = None
    was: str | None = None


class _SubTable(_Part):
    key: str
    fields: dict[str, _Field] = Default(default_factory=dict)
    comment: str = ""
    was: str | None = None


class _Group(_Part):
    fields: list[str]
    comment: str = ""


class _Type(_Part):
    name: str | None = None
    comment: str = ""
    fields: dict[str, _Field]
    subtables: dict[str, _SubTable] = Default(default_factory=dict)
    groups: dict[str, _Group] = Default(default_factory=dict)
    summaries: list[str] = Default(default_factory=list)
    subject: bool = False
    anonymous: bool = False
    finalised: bool = False
    reason_required: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A declaration that can be applied, and where it was found."""

    declared: RecordType
    origin: str


def read(path: Path) -> RecordType:
    """Return the record type that a TOML file declares; without `name`, the file's name is its.

    Raises DeclarationError with every mistake: the file, the place in it, what to do.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark there
    except OSError as error:
        raise DeclarationError([f"{path} cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise DeclarationError([f"{path} is no TOML file: it is not UTF-8 text"]) from error
    return parse(text, name=path.stem, origin=str(path))


def parse(text: str, *, name: str = "", origin: str = "the declaration") -> RecordType:
    """Return the record type that a text in TOML declares; raises DeclarationError as `read`.

    `name` is what it is called where the text does not say; `origin` stands in errors.
    """
    declared = _parsed(text, name, origin)
    if mistakes := list(unknown_summaries(declared)):
        raise DeclarationError([f"{origin}: {mistake}" for mistake in mistakes])
    return declared


def unknown_summaries(declared: RecordType) -> Iterator[str]:
    """Yield a line for each summary that a type names and that is not installed."""
    known = summaries.names()
    for name in declared.summaries:
        if name not in known:
            there = _meant(name, known) or f"; there are: {', '.join(sorted(known))}"
            yield f"summaries: no summary {name!r} is installed{there}"


def available(folder: Path | None = None) -> dict[str, Found]:
    """Return the declarations that can be applied, by name: plug-ins' and those in `folder`.

    An entry point of the group ``keepline.record_types`` names a RecordType, or the path of a
    TOML file; the shipped ones are found so too. A file of `folder` goes before a plug-in's type
    of the same name; two files do not share one. Raises DeclarationError with every mistake.
    """
    found = {each.name: _plugged(each) for each in entry_points(group="keepline.record_types")}
    found = {each.declared.name: each for each in found.values()}
    mistakes: list[str] = []
    local: dict[str, Found] = {}
    for path in files(folder) if folder is not None else ():
        try:
            declared = read(path)
        except DeclarationError as error:
            mistakes += error.mistakes
            continue
        if declared.name in local:
            mistakes.append(
                f"{path}: {local[declared.name].origin} declares {declared.name} already; "
                "give one of them another name"
            )
        local[declared.name] = Found(declared, str(path))
    if mistakes:
        raise DeclarationError(mistakes)
    return found | local


def files(folder: Path) -> list[Path]:
    """Return the files of a folder that declare record types; hidden ones are an editor's."""
    return sorted(each for each in folder.glob("*.toml") if not each.name.startswith("."))


def shipped(name: str) -> RecordType:
    """Return a record type of keepline's own."""
    # Its summaries are ours too: not looked for, since that would read all installed packages.
    file = _SHIPPED / f"{name}.toml"
    return _parsed(file.read_text(encoding="utf-8"), name, str(file))


def _plugged(entry: EntryPoint) -> Found:
    origin = entry.dist.name if entry.dist else entry.value
    try:
        named = entry.load()
        declared = named if isinstance(named, RecordType) else read(Path(str(named)))
    except DeclarationError:
        raise
    except Exception as error:  # whatever a plug-in raises
        raise DeclarationError(
            [f"the record type {entry.name!r} of {origin} cannot be loaded: {error}"]
        ) from error
    return Found(declared, origin)


def _parsed(text: str, name: str, origin: str) -> RecordType:
    mistakes: list[str] = []
    try:
        written = _written(tomllib.loads(text), mistakes)
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError([f"{origin}: {error}"]) from None
    except pydantic.ValidationError:
        raise DeclarationError([f"{origin}: {mistake}" for mistake in mistakes]) from None
    declared = RecordType(
        name=written.name or name,
        comment=written.comment,
        fields=_fields(written.fields, "fields", mistakes),
        subtables=tuple(
            SubTable(
                name=each,
                key=sub.key,
                comment=sub.comment,
                was=sub.was,
                fields=_fields(sub.fields, f"subtables.{each}.fields", mistakes),
            )
            for each, sub in written.subtables.items()
        ),
        groups=tuple(
            FieldGroup(each, tuple(group.fields), group.comment)
            for each, group in written.groups.items()
        ),
        summaries=tuple(written.summaries),
        subject=written.subject,
        anonymous=written.anonymous,
        finalised=written.finalised,
        reason_required=written.reason_required,
    )
    mistakes += mistakes_in(declared)
    if mistakes:
        raise DeclarationError([f"{origin}: {mistake}" for mistake in mistakes])
    return declared


def _written(found: dict[str, Any], mistakes: list[str]) -> _Type:
    """Return what a file says, without the parts that are wrong, each of which is told.

    Raises ValidationError when nothing is left to go on with.
    """
    try:
        return _Type.model_validate(found)
    except pydantic.ValidationError as error:
        errors = error.errors(include_url=False)
    mistakes += dict.fromkeys(map(_mistake, errors))
    for each in errors:
        _leave_out(found, each["loc"])
    return _Type.model_validate(found)


def _leave_out(found: dict[str, Any], place: Sequence[int | str]) -> None:
    """Take away the part in which a mistake is; of a field the name stays."""
    match place:
        case ["fields", str() as name, *_]:
            found["fields"][name] = {}
        case ["subtables", str() as subtable, "fields", str() as name, *_]:
            if subtable in found["subtables"]:
                found["subtables"][subtable]["fields"][name] = {}
        case ["subtables" | "groups" as kind, str() as name, *_]:
            found[kind].pop(name, None)
        case [str() as name, *_]:
            found.pop(name, None)


def _fields(written: Mapping[str, _Field], place: str, mistakes: list[str]) -> tuple[Field, ...]:
    fields = []
    for name, each in written.items():
        values = each.model_dump(exclude={"missing", "choices"})
        field = Field(name=name, choices=tuple(each.choices), **values)
        codes = []
        for code, meaning in each.missing.items():
            try:
                codes.append((_code(field, code), meaning))
            except ValueError:
                mistakes.append(f"{place}.{name}.missing: {code!r} is no {field.type}")
        fields.append(replace(field, missing=tuple(codes)))
    return tuple(fields)


def _code(field: Field, text: str) -> Scalar:
    """Return a missing code as its field has it: keys of TOML are always texts."""
    if field.type == "integer":
        return int(text)
    return float(text) if field.type == "real" else text


def _mistake(error: Any) -> str:
    *places, last = map(str, error["loc"])
    place = ".".join((*places, last))
    if error["type"] == "extra_forbidden":
        known = _part(places).model_fields
        there = "" if (meant := _meant(last, known)) else f"; there are: {', '.join(known)}"
        return f"{place}: no such key{meant}{there}"
    if error["type"] == "model_type" and (kind := error["input"]) in get_args(FieldType):
        return f'{place}: write {last} = {{ type = "{kind}" }}'
    if error["type"] == "missing":
        return f"{place} is needed"
    if "choices" in places[:-1]:  # one line for each type that a choice might have
        place = ".".join(places)
        return f"{place}: a choice is a text or a number"
    return f"{place}: {error['msg'].removeprefix('Input ')}"


def _part(places: list[str]) -> type[_Part]:
    match places:
        case []:
            return _Type
        case ["subtables", _]:
            return _SubTable
        case ["groups", _]:
            return _Group
        case _:
            return _Field


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""
