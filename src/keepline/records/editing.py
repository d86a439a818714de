"""A record as text that a person edits, and saving what became of it.

Each line is ``field = value`` with the value as JSON; a text may have line ends within its
quotes, ``null`` is no value, and a line that is taken out changes nothing. Lines that begin
with # are comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepline.errors import InvalidRecordError, RecordError
from keepline.model import Field
from keepline.records.business import BusinessObject
from keepline.records.json_values import plain_value, typed_value
from keepline.records.outcomes import Conflict, Outcome, SaveResult

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t\r\n]*")
_REST = re.compile(r"[ \t]*(?:#[^\n]*)?\r?(?:\n|\Z)")
_SIDES = {
    **dict.fromkeys(("m", "mine"), "mine"),
    **dict.fromkeys(("t", "theirs"), "theirs"),
    **dict.fromkeys(("b", "base"), "base"),
}

#: Outcomes after which other values may go through.
_MENDABLE = (Outcome.INVALID, Outcome.RETRYABLE)


@dataclass(frozen=True, slots=True)
class Desk:
    """Whoever edits: what opens a file for editing, settles a conflict, and asks to go on.

    `decide` is given a conflict and one of its fields, and returns the value that is to be
    saved. `go_on` is told what is wrong, and answers whether to edit again.
    """

    edit: Callable[[Path], None]
    decide: Callable[[Conflict, Field], Any]
    go_on: Callable[[str], bool]


def edit_record(
    obj: BusinessObject, draft: Path, desk: Desk, *, reason: str | None = None
) -> Outcome:
    """Have a record edited in the file `draft` and save it; return what it came to.

    Conflicts are settled field by field, as often as others save in between. The file is left
    with what was typed whatever happens; who calls this takes it away afterwards. Raises
    RecordError when what was typed cannot be saved.
    """
    draft.write_text(form(obj), encoding="utf-8")
    while True:
        desk.edit(draft)
        try:
            for name, value in read_form(obj, draft.read_text(encoding="utf-8")).items():
                obj[name] = value
        except (InvalidRecordError, UnicodeDecodeError) as error:
            if not desk.go_on(str(error)):
                raise InvalidRecordError(str(error)) from None
            continue
        result = _saved(obj, desk, reason)
        if result:
            return result.outcome
        if result.outcome not in _MENDABLE or not desk.go_on(result.message):
            raise RecordError(result.message)


def form(obj: BusinessObject) -> str:
    """Return a record's fields as text to edit."""
    lines = [
        f"# {obj.record_type.name} {json.dumps(obj.key)}, revision {obj.revision}",
        "# field = value; null is no value; texts stand in quotes. Save and close to go on.",
    ]
    settable = obj.updatable_fields
    for each in obj.record_type.fields:
        lines.append("")
        if told := _told(each):
            lines.append(f"# {told}")
        text = f"{each.name} = {_text(obj[each.name])}"
        if each.name not in settable:
            text = "# " + text.replace("\n", "\n# ") + "   (cannot be set)"
        lines.append(text)
    return "\n".join(lines) + "\n"


def read_form(obj: BusinessObject, text: str) -> dict[str, Any]:
    """Return the values that an edited form holds, by field.

    Raises InvalidRecordError, which says the line.
    """
    known = {each.name: each for each in obj.record_type.fields if each.name in obj}
    decoder = json.JSONDecoder(strict=False)  # which lets a text have line ends
    found: dict[str, Any] = {}
    place = _end(_BLANK.match(text))
    while place < len(text):
        line = text.count("\n", 0, place) + 1
        start = _NAME.match(text, place)
        if start is None:
            raise InvalidRecordError(f"line {line}: this is not field = value")
        name = start[1]
        if name not in known or name not in obj.updatable_fields:
            raise InvalidRecordError(f"line {line}: there is no field {name!r} to be set")
        if name in found:
            raise InvalidRecordError(f"line {line}: {name} stands here twice")
        try:
            plain, place = decoder.raw_decode(text, start.end())
            rest = _REST.match(text, place)
            found[name] = typed_value(known[name], plain)
        except (ValueError, RecursionError):
            rest = None
        except InvalidRecordError as error:
            raise InvalidRecordError(f"line {line}: {error}") from None
        if rest is None:
            raise InvalidRecordError(f"line {line}: {name} is not JSON; texts stand in quotes")
        place = _end(_BLANK.match(text, rest.end()))
    return found


def decided(conflict: Conflict, field: Field, answer: str) -> Any:
    """Return what an answer says of a field in conflict: mine, theirs, base, or a value.

    A value is JSON, or the text itself where the field takes text. Raises InvalidRecordError.
    """
    answer = answer.strip()
    if side := _SIDES.get(answer.lower()):
        return getattr(conflict, side)[field.name]
    try:
        plain = json.loads(answer)
    except ValueError:
        plain = answer
    if field.type == "text" and plain is not None and not isinstance(plain, str):
        plain = answer
    return typed_value(field, plain)


def _saved(obj: BusinessObject, desk: Desk, reason: str | None) -> SaveResult:
    while True:
        result = obj.save_payload(reason)
        if result.conflict is None:
            return result
        for name in result.conflict.conflicting:
            obj.resolve(name, desk.decide(result.conflict, obj.record_type.field(name)))
        if not result.conflict.conflicting:
            return result


def _told(field: Field) -> str:
    parts = [field.type + (f" in {field.unit}" if field.unit else "")]
    if field.required:
        parts.append("required")
    if field.choices:
        parts.append(
            "one of " + ", ".join(json.dumps(e, ensure_ascii=False) for e in field.choices)
        )
    if field.minimum is not None:
        parts.append(f"at least {field.minimum:g}")
    if field.maximum is not None:
        parts.append(f"at most {field.maximum:g}")
    parts += [f"{json.dumps(code, ensure_ascii=False)} is {said}" for code, said in field.missing]
    told = "; ".join(parts) + (f". {field.comment}" if field.comment else "")
    return " ".join(told.split())


def _text(value: Any) -> str:
    plain = plain_value(value)
    if isinstance(plain, str):
        lines = [json.dumps(line, ensure_ascii=False)[1:-1] for line in plain.split("\n")]
        return '"' + "\n".join(lines) + '"'
    return json.dumps(plain, ensure_ascii=False, indent=2)


def _end(match: re.Match[str] | None) -> int:
    return 0 if match is None else match.end()
