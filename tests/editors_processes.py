"""Programs that save hot records side by side: ``python -m tests.editors_processes WHAT ...``."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keepline.model import Field, Principal, RecordType
from keepline.records import BusinessObject, Outcome, business_class, save_all
from keepline.store import Store
from tests.stores import StoreInstance

#: Counters, so that saves of one are conflicts and those of two are merged.
COUNTED = RecordType("counted", tuple(Field(f"n{n}", "integer") for n in range(4)))
COUNTERS = tuple(each.name for each in COUNTED.fields)
Counted = business_class(COUNTED)


@contextmanager
def running(what: str, store: Store, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run one of the programs on `store`; it is gone when the context ends."""
    url = store.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.editors_processes", what, url, *map(str, arguments)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            yield process
        finally:
            process.kill()


def _instance(url: str) -> StoreInstance:
    return StoreInstance(Store(url, busy_timeout_s=120), Path())


def increments(url: str, seed: int, saves: int, rows: int) -> None:
    """Add one to a counter `saves` times; print how often to each, and the outcomes.

    Records are held open while others save, and some are saved two at once. An
    addition that was not written as it was made is made again on what is there.
    """
    about = {"instance": _instance(url), "principal": Principal(f"p{seed}", sees_all=True)}
    chance = random.Random(seed)
    held = {str(n): Counted(str(n), **about) for n in range(rows)}
    added: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    done = 0
    while done < saves:
        count = 2 if chance.random() < 0.1 and saves - done > 1 else 1
        pending = {key: chance.choice(COUNTERS) for key in chance.sample(sorted(held), count)}
        done += count
        for key, counter in pending.items():
            held[key][counter] += 1
        while pending:
            objects = [held[key] for key in pending]
            results = [objects[0].save_payload()] if len(objects) == 1 else save_all(objects)
            for obj, result in zip(objects, results, strict=True):
                outcomes[result.outcome] += 1
                if _settled(obj, result.outcome, pending[obj.key]):
                    added[f"{obj.key} {pending.pop(obj.key)}"] += 1
    print(json.dumps([added, outcomes]))


def _settled(obj: BusinessObject, outcome: Outcome, counter: str) -> bool:
    """Return whether an addition is in the database; make it again where it is not."""
    if outcome in (Outcome.SAVED, Outcome.MERGED):
        return True
    if outcome in (Outcome.CONFLICT, Outcome.UNCHANGED):  # another one came to the same number
        obj.refetch_payload(ignore_changes=True)
        obj[counter] += 1
    else:
        assert outcome is Outcome.RETRYABLE
    return False


def numbers(url: str, counter: str) -> None:
    """Save one number after the other in a counter of a record; print each that was answered."""
    obj = Counted("0", instance=_instance(url))
    while True:
        obj[counter] += 1
        while not (outcome := obj.save()):
            assert outcome is Outcome.RETRYABLE
        print(obj[counter], flush=True)


if __name__ == "__main__":
    what, url, *rest = sys.argv[1:]
    if what == "increments":
        increments(url, *map(int, rest))
    else:
        numbers(url, *rest)
