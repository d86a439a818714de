"""The seed page's problem cases of XMIN, on tokens of the database's own."""

import sqlalchemy as sa

from keepline.records import BusinessObject, Outcome, business_class, put_record
from keepline.store import Store
from tests.stores import ANN, SPECIMEN, StoreInstance, around


def opened(instance: StoreInstance) -> BusinessObject:
    return business_class(SPECIMEN)("a", instance=instance, principal=ANN)


def freeze(store: Store) -> None:
    """Rewrite the table as the database's housekeeping does; XMIN loses its meaning."""
    engine = sa.create_engine(store.engine.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        frozen = store.dialect == "postgresql"
        connection.exec_driver_sql("VACUUM (FREEZE) rec_specimen" if frozen else "VACUUM")


def test_a_token_outlives_housekeeping_and_shows_changes_after_it(instance: StoreInstance) -> None:
    with instance.store.write(ANN) as connection:
        put_record(connection, SPECIMEN, "a", {"label": "first"})
    mine, stale = opened(instance), opened(instance)
    before = mine.token
    freeze(instance.store)
    assert opened(instance).token == before
    mine["label"] = "mine"
    assert mine.save() is Outcome.SAVED
    freeze(instance.store)
    with around(instance.store) as connection:
        connection.exec_driver_sql("UPDATE rec_specimen SET label = 'raw'")
    assert len({before, mine.token, opened(instance).token}) == 3
    stale["label"] = "stale"
    assert stale.save_payload().outcome is Outcome.CONFLICT
