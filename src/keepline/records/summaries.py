"""What a record amounts to: named functions over its values, found through entry points.

An entry point of the group ``keepline.summaries`` names a function that takes the values of a
record's fields by name, and returns a value for each name of its own. A missing code has been
made None by then, so that it never counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from keepline.errors import PluginError
from keepline.model import RecordType
from keepline.store import plugins

Summary = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_log = logging.getLogger(__name__)

#: The items of the PHQ-9 in their order; the first two are the core symptoms.
PHQ9_ITEMS = (
    "interest",
    "mood",
    "sleep",
    "energy",
    "appetite",
    "self_worth",
    "concentration",
    "movement",
    "self_harm",
)

_SEVERITY = (
    (20, "severe"),
    (15, "moderately severe"),
    (10, "moderate"),
    (5, "mild"),
    (0, "minimal"),
)
_MORE_THAN_HALF_THE_DAYS = 2
_SEVERAL_DAYS = 1
_HIGHEST = 3


def names() -> frozenset[str]:
    """Return the names of the summaries that are installed."""
    return frozenset(entry_points(group="keepline.summaries").names)


def summarise(declared: RecordType, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record amounts to, as its type's summaries say, in their order.

    The keys are ``summary.name``, which no field is ever called. A summary that is not
    installed, or fails, gives ``summary.error`` instead and does not stop the others.
    """
    counted = {
        field.name: None if _is_missing(values.get(field.name), field.missing_codes) else value
        for field in declared.fields
        for value in [values.get(field.name)]
    }
    found: dict[str, Any] = {}
    for name in declared.summaries:
        try:
            summary: Summary = plugins.load("summaries", name)
            found |= {f"{name}.{key}": value for key, value in summary(counted).items()}
        except PluginError:
            found[f"{name}.error"] = "not installed"
        except Exception as error:  # a plug-in's fault; its text may hold a record's values
            _log.warning("the summary %r failed: %s", name, type(error).__name__)
            found[f"{name}.error"] = type(error).__name__
    return found


def session(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return how long a session of use took, in seconds; None while an end is not known."""
    started, ended = values.get("started"), values.get("ended")
    if started is None or ended is None:
        return {"duration_s": None}
    return {"duration_s": (ended - started).total_seconds()}


def phq9(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of a PHQ-9.

    - `total`: the sum of the nine items, 0 to 27; None unless all are answered.
    - `prorated`: where one or two items are not answered they count as the mean of those that
      are (a real number, not rounded); None where more are missing.
    - `severity`: the band of `prorated`, rounded half up: minimal 0-4, mild 5-9, moderate 10-14,
      moderately severe 15-19, severe 20-27.
    - `answered`, `complete`: how many items are answered, and whether all are.
    - `syndrome`: "major depressive" where five items or more are at least "more than half the
      days", "other depressive" where two to four are, in both cases with the first or second
      among them; the ninth counts from "several days" on. "none" otherwise, and None where an
      item that is not answered could change it. It is a finding of the questionnaire, and no
      diagnosis.

    Sources: items, total, bands and syndromes from Kroenke, Spitzer, Williams, "The PHQ-9",
    J Gen Intern Med 16 (2001) 606-613, and the instruction manual of the PHQ; missing items as
    in the NHS Data Dictionary, "Patient Health Questionnaire-9".
    """
    answers = [values.get(item) for item in PHQ9_ITEMS]
    given = [answer for answer in answers if answer is not None]
    complete = len(given) == len(PHQ9_ITEMS)
    prorated = None
    if len(given) >= len(PHQ9_ITEMS) - 2:
        prorated = len(PHQ9_ITEMS) * sum(given) / len(given)
    return {
        "total": sum(given) if complete else None,
        "prorated": prorated,
        "severity": None if prorated is None else _severity(int(prorated + 0.5)),
        "answered": len(given),
        "complete": complete,
        "syndrome": _certain_syndrome(answers),
    }


def _severity(score: int) -> str:
    return next(band for least, band in _SEVERITY if score >= least)


def _certain_syndrome(answers: list[int | None]) -> str | None:
    # More symptoms never make less of a syndrome: what holds for both ends holds between them.
    least = _syndrome([0 if answer is None else answer for answer in answers])
    most = _syndrome([_HIGHEST if answer is None else answer for answer in answers])
    return least if least == most else None


def _syndrome(answers: list[int]) -> str:
    present = [answer >= _MORE_THAN_HALF_THE_DAYS for answer in answers]
    core = any(present[:2])
    present[-1] = answers[-1] >= _SEVERAL_DAYS
    if not core or sum(present) < 2:
        return "none"
    return "major depressive" if sum(present) >= 5 else "other depressive"


def _is_missing(value: Any, codes: tuple[Any, ...]) -> bool:
    return isinstance(value, str | int | float) and value in codes
