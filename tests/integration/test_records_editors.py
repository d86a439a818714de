"""Many editors at random: no edit is lost, no conflict is false, and the history replays.

Editors hold records open while others save, raw writers go around the library, transactions
join, roll back and die, batches mix with single saves, bundles come back in any order, twice and
late. After each step the database holds what the model in `tests.editors` says.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keepline.errors import ConflictError, RecordNotFoundError
from keepline.model import Principal
from keepline.records import (
    Bundle,
    BusinessObject,
    Outcome,
    apply_type,
    business_class,
    checkin,
    checkout,
    checks,
    history,
    save_all,
)
from keepline.records.proposals import proposals
from keepline.store.tables.declared import record_tables
from keepline.store.tables.records import change_feed, record_history
from tests import editors
from tests.editors import EDITED, FIELDS, UNITS, Model, Row, View, Writer
from tests.stores import ANN, BEN, StoreInstance

Edited = business_class(EDITED)
START = {
    "title": "a", "note": "a", "count": 0, "dose": 1.0, "unit": "g", "extra": {"n": 0},
}  # fmt: skip
PARENT, CHILD = (record_tables(EDITED).tables[f"rec_edited{end}"] for end in ("", "__part"))

#: How many editors, and how many bundles, are held at once.
MOST = 4

#: Few values, so that editors agree at times, and bring old values back.
VALUES = {
    "title": st.sampled_from("abcd"),
    "note": st.sampled_from("abcd"),
    "count": st.integers(0, 3),
    "dose": st.sampled_from([1.0, 2.5, 3.0]),
    "unit": st.sampled_from(["g", "mg", "kg"]),
    "extra": st.builds(lambda n: {"n": n}, st.integers(0, 3)),
}
CHANGES = st.sampled_from((*FIELDS, "dose", "unit")).flatmap(
    lambda name: st.tuples(st.just(name), VALUES[name])
)
CHOICES = st.sampled_from(["base", "mine", "theirs"])
KEYS = st.integers(0, 1)
PLACES = st.integers(0, MOST - 1)
Changes = list[tuple[str, Any]]
WHO = st.sampled_from([ANN, BEN])
_examples = itertools.count()


@dataclass(eq=False)
class Editor:
    """An object that somebody holds, and what the model knows of it."""

    obj: BusinessObject
    who: Principal
    view: View
    mine: dict[str, Any]

    @property
    def key(self) -> str:
        return self.obj.key


@dataclass(eq=False)
class Taken:
    """A bundle that is out, and what the model knows of it: rows by key, and what it brought."""

    bundle: Bundle
    rows: dict[str, Row]
    brought: set[tuple[str, str]] = field(default_factory=set)


class Editors(RuleBasedStateMachine):
    """Any number of editors on two records."""

    def __init__(self, instance: StoreInstance, around: sa.Engine) -> None:
        super().__init__()
        self.instance, self.store, self.around = instance, instance.store, around
        example = next(_examples)
        self.model = Model(tuple(f"{example}-{name}" for name in "ab"))
        self.editors: list[Editor] = []
        self.bundles: list[Taken] = []
        self.proposed: set[tuple[str, str, str]] = set()
        self.connection: sa.Connection | None = None
        self.savepoints: list[tuple[sa.NestedTransaction, int]] = []
        self.undos: list[Callable[[], None]] = []
        self.stack = ExitStack()
        self.announced = False

    # Where a step happens

    def inside(self, key: str, wish: bool) -> bool:
        """Return whether a write is the open transaction's; elsewhere it would be waited for."""
        txn = self.model.txn
        if txn is None:
            return False
        return wish or self.store.dialect == "sqlite" or key in txn.locked

    def joined(self, inside: bool, *keys: str) -> sa.Connection | None:
        if not inside or self.model.txn is None:
            return None
        self.model.txn.locked.update(keys)
        return self.connection

    def writer(self, inside: bool, who: Principal | None) -> Writer:
        txn = self.model.txn.id if inside and self.model.txn else editors.number()
        return txn, who and who.name

    def raw_writer(self, inside: bool) -> Writer:
        """SQLite cannot tell the transactions apart of those who go around the library."""
        announced = inside and self.announced
        if self.store.dialect == "sqlite" and not announced:
            return None
        return self.writer(inside, BEN if announced else None)

    @contextmanager
    def raw(self, inside: bool, *keys: str) -> Iterator[sa.Connection]:
        if (connection := self.joined(inside, *keys)) is not None:
            yield connection
            return
        with self.around.begin() as connection:
            yield connection

    def key(self, number: int) -> str:
        return self.model.keys[number]

    def editor(self, place: int) -> Editor | None:
        return self.editors[place % len(self.editors)] if self.editors else None

    def hold(self, editor: Editor) -> None:
        """Add an editor; the one that was there first leaves."""
        self.editors = [*self.editors, editor][-MOST:]

    def undone(self, editor: Editor) -> Callable[[], None]:
        """Return what a rollback does to the model of an editor."""
        view, mine = editor.view, dict(editor.mine)

        def undo() -> None:
            saw = editor.view.saw
            typed = {n: v for n, v in editor.mine.items() if v != saw[n]}
            editor.view, editor.mine = view, {**mine, **typed}

        return undo

    def undo(self, until: int = 0) -> None:
        while len(self.undos) > until:
            self.undos.pop()()

    def adopt(self, editor: Editor, row: Row) -> None:
        assert row.values is not None
        editor.view, editor.mine = View(row), dict(row.values)

    # Editors

    @initialize()
    def two_records(self) -> None:
        for key in self.model.keys:
            self._create(key, ANN, False)

    @rule(key=KEYS, who=WHO, wish=st.booleans())
    def open_one(self, key: int, who: Principal, wish: bool) -> None:
        name = self.key(key)
        inside = wish and self.model.txn is not None
        row = self.model.row(name, inside=inside)
        about = {"instance": self.instance, "principal": who}
        connection = self.connection if inside else None
        if row.values is None:
            with pytest.raises(RecordNotFoundError):
                Edited(name, connection=connection, **about)
            return
        obj = Edited(name, connection=connection, **about)
        self.hold(Editor(obj, who, View(row), dict(row.values)))

    @rule(place=PLACES, changes=st.lists(CHANGES, min_size=1, max_size=3))
    def type_in(self, place: int, changes: Changes) -> None:
        if (editor := self.editor(place)) is not None:
            self._type(editor, changes)

    def _type(self, editor: Editor, changes: Changes) -> None:
        for name, value in changes:
            editor.obj[name] = editor.mine[name] = value

    @rule(place=PLACES, number=st.integers(0, 3))
    def change_in_place(self, place: int, number: int) -> None:
        if (editor := self.editor(place)) is not None:
            editor.mine["extra"] = {"n": number}
            editor.obj["extra"]["n"] = number

    @rule(place=PLACES, wish=st.booleans())
    def save(self, place: int, wish: bool) -> None:
        if (editor := self.editor(place)) is not None:
            self._save(editor, wish)

    def _save(self, editor: Editor, wish: bool) -> None:
        key = editor.key
        inside = self.inside(key, wish)
        outcome = self._predict(editor, inside, self.writer(inside, editor.who))
        result = editor.obj.save_payload(connection=self.joined(inside, key))
        assert result.outcome is outcome
        self._compare(editor, result.conflict)

    def _predict(self, editor: Editor, inside: bool, writer: Writer) -> Outcome:
        """Take a save into the model; by law first, whatever the rules of merging."""
        before = self.model.row(editor.key, inside=inside)
        outcome, after, view = editors.saved(editor.view, editor.mine, before, writer)
        if outcome and view is not editor.view:
            assert after.values is not None
            assert not list(editors.overwritten(editor.view, before, after.values))
            if inside:
                self.undos.append(self.undone(editor))
            self.model.put(editor.key, after, inside=inside)
            self.adopt(editor, view.row)
        editor.view = view
        return outcome

    def _compare(self, editor: Editor, conflict: Any) -> None:
        clash = editor.view.clash
        if conflict is not None:
            assert clash is not None
            assert set(conflict.conflicting) == clash.fields
            assert conflict.theirs == clash.theirs.values
            assert (conflict.base, conflict.mine) == (clash.saw, clash.mine)

    @rule(
        place=PLACES,
        theirs=st.lists(CHANGES, min_size=1, max_size=4),
        mine=st.lists(CHANGES, max_size=3),
        wish=st.booleans(),
    )
    def meet(self, place: int, theirs: Changes, mine: Changes, wish: bool) -> None:
        """Have somebody else save the record before an editor does."""
        if (editor := self.editor(place)) is None:
            return
        inside = self.inside(editor.key, wish)
        if self.model.row(editor.key, inside=inside).values is not None:
            self.open_one(self.model.keys.index(editor.key), BEN, inside)
            self._type(self.editors[-1], theirs)
            self._save(self.editors[-1], wish)
        self._type(editor, mine)
        self._save(editor, wish)

    @precondition(lambda self: self.clashing())
    @rule(place=PLACES, which=PLACES, choice=CHOICES)
    def resolve(self, place: int, which: int, choice: Any) -> None:
        found = self.clashing()
        editor = found[place % len(found)]
        assert editor.view.clash is not None
        names = sorted(editor.view.clash.fields)
        self._resolve(editor, names[which % len(names)], choice)

    @precondition(lambda self: self.clashing())
    @rule(place=PLACES, mine=st.lists(CHANGES, max_size=2), choice=CHOICES, wish=st.booleans())
    def resolve_and_save(self, place: int, mine: Changes, choice: Any, wish: bool) -> None:
        """Have an editor type on after a conflict, decide all of it, and save."""
        found = self.clashing()
        editor = found[place % len(found)]
        assert editor.view.clash is not None
        self._type(editor, mine)
        for name in sorted(editor.view.clash.fields):
            if editor.view.clash is not None:
                self._resolve(editor, name, choice)
        self._save(editor, wish)

    def clashing(self) -> list[Editor]:
        return [each for each in self.editors if each.view.clash is not None]

    def _resolve(self, editor: Editor, name: str, choice: Any) -> None:
        clash = editor.view.clash
        assert clash is not None
        assert clash.theirs.values is not None
        sides = {"base": clash.saw, "mine": clash.mine, "theirs": clash.theirs.values}
        editor.obj.resolve(name, choice=choice)
        mine = {**editor.mine, name: sides[choice][name]}
        editor.view, mine_now = editors.decided(editor.view, mine, name)
        editor.mine = dict(mine_now)

    @rule(place=PLACES, ignore=st.booleans(), wish=st.booleans())
    def refetch(self, place: int, ignore: bool, wish: bool) -> None:
        if (editor := self.editor(place)) is None:
            return
        inside = wish and self.model.txn is not None
        row = self.model.row(editor.key, inside=inside)
        connection = self.connection if inside else None
        if editor.mine != editor.view.saw and not ignore:
            assert not editor.obj.refetch_payload(connection=connection)
        elif row.values is None:
            with pytest.raises(RecordNotFoundError):
                editor.obj.refetch_payload(ignore_changes=ignore, connection=connection)
        else:
            assert editor.obj.refetch_payload(ignore_changes=ignore, connection=connection)
            self.adopt(editor, row)

    @rule(place=PLACES, wish=st.booleans())
    def delete(self, place: int, wish: bool) -> None:
        if (editor := self.editor(place)) is None:
            return
        key = editor.key
        inside = self.inside(key, wish)
        row = self.model.row(key, inside=inside)
        connection = self.joined(inside, key)
        if row.values is None:
            assert editor.obj.delete(connection=connection) is False
        elif row.version != editor.view.row.version:
            with pytest.raises(ConflictError):
                editor.obj.delete(connection=connection)
        else:
            assert editor.obj.delete(connection=connection) is True
            self.model.put(key, editors.gone(row), inside=inside)

    @precondition(lambda self: any(row.values is None for row in self.model.rows.values()))
    @rule(key=KEYS, who=WHO, wish=st.booleans())
    def create(self, key: int, who: Principal, wish: bool) -> None:
        name = self.key(key)
        inside = self.inside(name, wish)
        if self.model.row(name, inside=inside).values is None:
            self._create(name, who, inside)

    def _create(self, key: str, who: Principal, inside: bool) -> None:
        obj = Edited.create(
            key, START,
            instance=self.instance, principal=who, connection=self.joined(inside, key),
        )  # fmt: skip
        row = editors.made(self.model.row(key, inside=inside), START, self.writer(inside, who))
        self.model.put(key, row, inside=inside)
        self.hold(Editor(obj, who, View(row), dict(START)))

    @rule(
        places=st.lists(PLACES, min_size=1, max_size=4),
        mine=st.lists(CHANGES, max_size=2),
        atomic=st.booleans(),
        wish=st.booleans(),
    )
    def save_many(self, places: list[int], mine: Changes, atomic: bool, wish: bool) -> None:
        """Save several editors' records as one batch, after all of them typed the same."""
        chosen = list(dict.fromkeys(filter(None, map(self.editor, places))))
        if not chosen:
            return
        for editor in chosen:
            self._type(editor, mine)
        keys = {editor.key for editor in chosen}
        inside = any(self.inside(key, wish) for key in keys)
        writer = self.writer(inside, ANN)
        model, undos = self.model, len(self.undos)
        rows = {key: model.row(key, inside=inside) for key in keys}
        before = [(editor, editor.view, dict(editor.mine)) for editor in chosen]
        outcomes = [self._predict(editor, inside, writer) for editor in chosen]
        if atomic and not all(outcomes):
            del self.undos[undos:]
            for key in keys:
                model.put(key, rows[key], inside=inside)
            for n, (editor, view, mine) in enumerate(before):
                if outcomes[n] and mine != view.saw:
                    outcomes[n], editor.view, editor.mine = Outcome.RETRYABLE, view, mine
        results = save_all(
            [editor.obj for editor in chosen],
            atomic=atomic,
            principal=ANN,
            connection=self.joined(inside, *keys),
        )
        assert [result.outcome for result in results] == outcomes
        for editor, result in zip(chosen, results, strict=True):
            self._compare(editor, result.conflict)

    # Writers around the library

    @rule(key=KEYS, change=CHANGES, wish=st.booleans())
    def raw_update(self, key: int, change: tuple[str, Any], wish: bool) -> None:
        name, inside = self.key(key), self.inside(self.key(key), wish)
        with self.raw(inside, name) as connection:
            connection.execute(
                sa.update(PARENT).where(PARENT.c.record_key == name).values(dict([change]))
            )
        self._rewrite(name, inside, dict([change]))

    @rule(change=CHANGES, wish=st.booleans())
    def raw_update_of_all(self, change: tuple[str, Any], wish: bool) -> None:
        inside = any(self.inside(key, wish) for key in self.model.keys)
        with self.raw(inside, *self.model.keys) as connection:
            connection.execute(
                sa.update(PARENT)
                .where(PARENT.c.record_key.in_(self.model.keys))
                .values(dict([change]))
            )
        for key in self.model.keys:
            self._rewrite(key, inside, dict([change]))

    def _rewrite(self, key: str, inside: bool, changes: dict[str, Any]) -> None:
        row = self.model.row(key, inside=inside)
        if row.values is not None:
            row = editors.written(row, {**row.values, **changes}, self.raw_writer(inside))
            self.model.put(key, row, inside=inside)

    @rule(key=KEYS, again=st.booleans(), wish=st.booleans())
    def raw_delete(self, key: int, again: bool, wish: bool) -> None:
        name, inside = self.key(key), self.inside(self.key(key), wish)
        row = self.model.row(name, inside=inside)
        with self.raw(inside, name) as connection:
            connection.execute(sa.delete(PARENT).where(PARENT.c.record_key == name))
            if row.values is not None:
                row = editors.gone(row)
            if again:
                connection.execute(sa.insert(PARENT).values(record_key=name, **START))
                row = editors.made(row, START, self.raw_writer(inside))
        self.model.put(name, row, inside=inside)

    @rule(key=KEYS, part=st.sampled_from("pq"), amount=st.integers(0, 2), wish=st.booleans())
    def raw_part(self, key: int, part: str, amount: int, wish: bool) -> None:
        """Put a sub-row, or take it away (amount 0)."""
        name, inside = self.key(key), self.inside(self.key(key), wish)
        row = self.model.row(name, inside=inside)
        if row.values is None or (amount == 0 and part not in row.parts):
            return
        here = (CHILD.c.record_key == name, CHILD.c.part == part)
        parts = {**row.parts, part: amount}
        with self.raw(inside, name) as connection:
            if amount == 0:
                connection.execute(sa.delete(CHILD).where(*here))
                del parts[part]
            elif part in row.parts:
                connection.execute(sa.update(CHILD).where(*here).values(amount=amount))
            else:
                values = {"record_key": name, "part": part, "amount": amount}
                connection.execute(sa.insert(CHILD).values(values))
        row = editors.written(row, row.values, self.raw_writer(inside), parts)
        self.model.put(name, row, inside=inside)

    # Transactions of a caller

    @precondition(lambda self: self.model.txn is None)
    @rule(announced=st.booleans())
    def begin(self, announced: bool) -> None:
        self.announced = announced
        self.stack = ExitStack()
        if announced:
            self.connection = self.stack.enter_context(self.store.write(BEN))
        else:
            engine = self.store.engine.execution_options(keepline_write=True)
            self.connection = self.stack.enter_context(engine.connect())
            self.connection.begin()
        self.model.begin()

    @precondition(lambda self: self.model.txn is not None)
    @rule()
    def savepoint(self) -> None:
        assert self.connection is not None
        assert self.model.txn is not None
        self.savepoints.append((self.connection.begin_nested(), len(self.undos)))
        self.model.txn.savepoints.append(dict(self.model.txn.rows))

    @precondition(lambda self: self.savepoints)
    @rule(release=st.booleans())
    def end_savepoint(self, release: bool) -> None:
        assert self.model.txn is not None
        savepoint, undos = self.savepoints.pop()
        rows = self.model.txn.savepoints.pop()
        if release:
            savepoint.commit()
        else:
            savepoint.rollback()
            self.model.txn.rows = rows
            self.undo(undos)

    @precondition(lambda self: self.model.txn is not None)
    @rule(place=PLACES, mine=st.lists(CHANGES, min_size=1, max_size=2), key=KEYS, change=CHANGES)
    def try_out(self, place: int, mine: Changes, key: int, change: tuple[str, Any]) -> None:
        """Save in a savepoint, and take it back."""
        if (editor := self.editor(place)) is not None:
            self._type(editor, mine)
            self.savepoint()
            self._save(editor, True)
            self.raw_update(key, change, True)
            self.end_savepoint(False)

    @precondition(lambda self: self.model.txn is not None)
    @rule(how=st.sampled_from(["commit", "commit", "rollback", "close", "crash"]))
    def end(self, how: str) -> None:
        connection, stack = self.connection, self.stack
        assert connection is not None
        self.connection, self.savepoints, self.stack = None, [], ExitStack()
        if how == "commit":
            self.undos.clear()
            if not self.announced:
                connection.commit()
            stack.close()
        elif how == "crash":
            connection.invalidate()  # the driver's connection goes, and says nothing
            connection.close()
            self._leave(stack)
        elif how == "close" and not self.announced:
            stack.close()
        else:
            self._leave(stack)
        self.model.end(commit=how == "commit")
        self.undo()

    def _leave(self, stack: ExitStack) -> None:
        """End a transaction as an error in its block does."""
        stack.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    # Bundles

    @rule(both=st.booleans(), key=KEYS)
    def check_out(self, both: bool, key: int) -> None:
        keys = self.model.keys if both else (self.key(key),)
        there = [each for each in keys if self.model.rows[each].values is not None]
        if there:
            bundle = checkout(EDITED, there, instance=self.instance, principal=ANN)
            taken = Taken(bundle, {each: self.model.rows[each] for each in there})
            self.bundles = [*self.bundles, taken][-MOST:]

    @rule(place=PLACES, key=KEYS, changes=st.lists(CHANGES, max_size=3), delete=st.booleans())
    def edit_bundle(self, place: int, key: int, changes: Changes, delete: bool) -> None:
        if self.bundles:
            record = self.bundles[place % len(self.bundles)].bundle.records.get(self.key(key))
            if record is not None:
                record.values.update(changes)
                record.delete = delete and not changes

    @precondition(lambda self: self.bundles and self.model.txn is None)
    @rule(place=PLACES, times=st.integers(1, 2))
    def check_in(self, place: int, times: int) -> None:
        self._check_in(self.bundles[place % len(self.bundles)], times)

    @precondition(lambda self: self.bundles and self.model.txn is None)
    @rule(place=PLACES, key=KEYS, edit=CHANGES)
    def check_in_early_and_late(self, place: int, key: int, edit: tuple[str, Any]) -> None:
        """Bring a bundle, and bring it again after somebody took the edit back."""
        place %= len(self.bundles)
        taken = self.bundles[place]
        self.edit_bundle(place, key, [edit], False)
        self._check_in(taken, 1)
        if (base := taken.rows.get(self.key(key))) is not None and base.values is not None:
            self.raw_update(key, (edit[0], base.values[edit[0]]), False)
        self._check_in(taken, 1)

    def _check_in(self, taken: Taken, times: int) -> None:
        for _ in range(times):
            bundle = Bundle.from_json(json.loads(json.dumps(taken.bundle.to_json())))
            checkin(bundle, EDITED, instance=self.instance, principal=BEN)
            writer = self.writer(False, BEN)
            for key, record in taken.bundle.records.items():
                assert taken.rows[key].values is not None
                edits = {n: v for n, v in record.values.items() if v != taken.rows[key].values[n]}
                brought = (key, json.dumps([record.values, record.delete]))
                if brought in taken.brought or not (edits or record.delete):
                    continue
                if self._land(key, taken.rows[key], edits, record.delete, writer):
                    taken.brought.add(brought)

    def _land(
        self, key: str, base: Row, edits: dict[str, Any], delete: bool, writer: Writer
    ) -> bool:
        """Take one record of a bundle into the model; return whether it is settled."""
        row = self.model.rows[key]
        assert base.values is not None
        if delete:
            if row.values is None:
                return True
            if row.version == base.version:
                self.model.rows[key] = editors.gone(row)
                return True
            return False
        mine = {**base.values, **edits}
        if row.values is None or row.born != base.born:
            there = row.values or {}
            self._propose(key, {n: v for n, v in edits.items() if there.get(n) != v})
            return True
        clash = editors.clashes(base.values, mine, row.values)
        open_units = [unit for unit in UNITS if not clash.intersection(unit)]
        values = dict(row.values)
        both = editors.merged(base.values, mine, row.values)
        values.update((name, both[name]) for unit in open_units for name in unit)
        if values != row.values:
            self.model.rows[key] = editors.written(row, values, writer)
        self._propose(key, {name: mine[name] for name in clash})
        return True

    def _propose(self, key: str, values: dict[str, Any]) -> None:
        self.proposed |= {(key, name, json.dumps(value)) for name, value in values.items()}

    # What always holds

    @invariant()
    def the_database_holds_what_the_model_says(self) -> None:
        with self.store.read() as connection:
            for key, row in self._read(connection).items():
                assert row == _content(self.model.rows[key])
        if self.connection is not None:
            for key, row in self._read(self.connection).items():
                assert row == _content(self.model.row(key, inside=True))

    @invariant()
    def what_was_typed_is_there(self) -> None:
        for editor in self.editors:
            assert editor.obj._payload == editor.mine
            changed = {n for n in FIELDS if editor.mine[n] != editor.view.saw[n]}
            assert set(editor.obj.changed_fields) == changed

    def _read(self, connection: sa.Connection) -> dict[str, Any]:
        found: dict[str, Any] = dict.fromkeys(self.model.keys, (None, {}, 0))
        mine = PARENT.c.record_key.in_(self.model.keys)
        for row in connection.execute(sa.select(PARENT).where(mine)):
            values = {name: row._mapping[name] for name in FIELDS}
            found[row.record_key] = (values, {}, row.revision)
        query = sa.select(CHILD).where(CHILD.c.record_key.in_(self.model.keys))
        for row in connection.execute(query):
            found[row.record_key][1][row.part] = row.amount
        return found

    def teardown(self) -> None:
        if self.model.txn is not None:
            self.end("rollback")
        self.the_history_replays()
        waiting = {
            (each.record.key, each.field, json.dumps(each.mine))
            for key in self.model.keys
            for each in proposals(key=key, instance=self.instance)
        }
        assert waiting == self.proposed
        assert list(checks.unrecorded(instance=self.instance)) == []
        assert list(checks.verify(instance=self.instance)) == []  # the seals, too

    def the_history_replays(self) -> None:
        for key in self.model.keys:
            row = self.model.rows[key]
            revisions = history(EDITED, key, instance=self.instance)
            told = [
                (
                    each.op,
                    each.after and dict(each.after.values),
                    {part["part"]: part["amount"] for part in each.after.subrows["part"]}
                    if each.after
                    else {},
                )
                for each in revisions
            ]
            assert told == [(op, values, dict(parts)) for op, values, parts in row.log]
            assert [each.number for each in revisions] == list(range(1, len(row.log) + 1))
            with self.store.read() as connection:
                fed = connection.execute(
                    sa.select(change_feed.c.revision, change_feed.c.op)
                    .where(change_feed.c.record_key == key)
                    .order_by(change_feed.c.revision)
                ).all()
                images = connection.execute(
                    sa.select(record_history)
                    .where(record_history.c.record_key == key)
                    .order_by(record_history.c.revision, record_history.c.subtable)
                ).all()
            assert [each.op for each in fed] == [op for op, _, _ in row.log]
            assert _replayed(images) == _content(row)[:2]


def _content(row: Row) -> tuple[Any, dict[str, int], int]:
    return row.values, dict(row.parts), len(row.log) if row.values is not None else 0


def _replayed(images: Any) -> tuple[Any, dict[str, int]]:
    """Return what a record comes to by the images of its history alone."""
    values: Any = None
    parts: dict[str, int] = {}
    for each in images:
        if each.subtable:
            if each.op == "delete":
                parts.pop(each.sub_key, None)
            else:
                parts[each.sub_key] = each.image["amount"]
        elif each.op == "delete":
            values = None
        else:
            values = {name: each.image[name] for name in FIELDS}
    return values, parts


def run(instance: StoreInstance, examples: int, steps: int, **more: Any) -> None:
    engine = sa.create_engine(instance.store.engine.url)  # of another program
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis leaves it so
        lambda: Editors(instance, engine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **{"phases": (Phase.explicit, Phase.reuse, Phase.generate), **more},
        ),
    )
    engine.dispose()


@pytest.fixture
def edited(instance: StoreInstance) -> StoreInstance:
    apply_type(instance.store, EDITED, ANN)
    return instance


@pytest.mark.timeout(600)
def test_no_edit_is_lost_and_no_conflict_is_false(edited: StoreInstance) -> None:
    run(edited, 40 if edited.store.dialect == "sqlite" else 10, 40)


# What the machine found, and what it finds only now and then.


@pytest.fixture
def one(edited: StoreInstance) -> StoreInstance:
    Edited.create("k", START, instance=edited)
    return edited


def opened(instance: StoreInstance, **changes: Any) -> BusinessObject:
    obj = Edited("k", instance=instance, principal=ANN)
    for name, value in changes.items():
        obj[name] = value
    return obj


def test_what_is_typed_during_a_conflict_stands_against_theirs(one: StoreInstance) -> None:
    mine = opened(one, title="mine")
    assert opened(one, title="theirs", note="theirs").save()
    assert mine.save_payload().conflict is not None
    mine["note"] = "mine"
    mine.resolve("title", choice="mine")
    with pytest.raises(ConflictError) as caught:
        mine.save()
    assert caught.value.conflict.conflicting == ("note",)
    mine.resolve("note", choice="theirs")
    assert mine.save() is Outcome.SAVED
    after = opened(one)
    assert (after["title"], after["note"]) == ("mine", "theirs")


def test_a_decision_is_made_anew_when_theirs_changes_again(one: StoreInstance) -> None:
    mine = opened(one, title="mine", note="mine")
    assert opened(one, title="theirs", note="theirs").save()
    assert mine.save_payload().conflict is not None
    mine.resolve("title", choice="mine")
    assert opened(one, title="later").save()
    assert mine.save_payload().conflict is not None
    mine.resolve("note", choice="mine")
    with pytest.raises(ConflictError) as caught:
        mine.save()
    assert caught.value.conflict.conflicting == ("title",)
    assert opened(one)["title"] == "later"


def test_what_both_agreed_on_in_a_group_is_no_conflict_again(one: StoreInstance) -> None:
    mine = opened(one, dose=5.0, unit="mg")
    assert opened(one, dose=6.0, unit="mg").save()
    assert mine.save_payload().conflict is not None
    mine.resolve("dose", choice="mine")
    assert mine.save() is Outcome.SAVED
    after = opened(one)
    assert (after["dose"], after["unit"]) == (5.0, "mg")


def test_a_rollback_leaves_nothing_of_what_was_taken_over(one: StoreInstance) -> None:
    mine = opened(one, title="mine")
    engine = one.store.engine.execution_options(keepline_write=True)
    with engine.connect() as connection:
        assert mine.save(connection=connection)
        connection.execute(sa.update(PARENT).values(count=7, note="never there"))
        mine["count"] = 5
        assert mine.save_payload(connection=connection).conflict is not None
        mine.resolve("count", choice="mine")
        connection.rollback()
    assert mine.changed_fields == ("title", "count")
    assert mine["note"] == "a"


def test_a_bundle_does_not_mix_the_sides_of_a_group(one: StoreInstance) -> None:
    bundle = checkout(EDITED, ["k"], instance=one, principal=ANN)
    bundle.records["k"].values["dose"] = 9.0
    assert opened(one, unit="mg").save()
    checkin(bundle, EDITED, instance=one, principal=BEN)
    after = opened(one)
    assert (after["dose"], after["unit"]) == (1.0, "mg")
    waiting = {each.field: each.mine for each in proposals(key="k", instance=one)}
    assert waiting == {"dose": 9.0, "unit": "g"}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_edit_is_lost_in_many_more_runs(edited: StoreInstance) -> None:
    run(edited, 1_000 if edited.store.dialect == "sqlite" else 200, 80)
