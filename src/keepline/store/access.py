"""Who may see what: the one place that decides it.

Every reader, module, download and delivery asks `visible` for the rows and columns of a table
that a principal may see, and nothing else decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from keepline.model import Principal

#: Columns that are the database's own business.
_HIDDEN = frozenset({"rev_txn"})


def may_see_group(group: str | None, principal: Principal) -> bool:
    """Return whether `principal` may see what belongs to `group`.

    What has no group belongs to the whole instance. `visible` says the same in SQL.
    """
    return principal.sees_all or group is None or group in principal.groups


def visible(
    table: sa.FromClause, principal: Principal
) -> tuple[sa.ColumnElement[bool], Sequence[sa.ColumnElement[object]]]:
    """Return the condition on the rows and the columns of `table` that `principal` may see.

    A row without a group belongs to the whole instance; one with a group to that group's
    members. Tables without a `group_name` have no rows to hide from members of the instance.
    """
    columns = [column for column in table.c if column.name not in _HIDDEN]
    group = table.c.get("group_name")
    if principal.sees_all or group is None:
        return sa.true(), columns
    return sa.or_(group.is_(None), group.in_(sorted(principal.groups))), columns
