"""An archive for each test, copied from one that is made once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepline.capture import SqliteCaptureStore
from keepline.store import Store


@pytest.fixture(scope="session")
def archive_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema and the instruments `bench` and, of the group lab, `secret`."""
    from tests.archived import declare  # here, so that other tests do without the archive

    file = tmp_path_factory.mktemp("archive") / "template.db"
    store = Store(f"sqlite:///{file}")
    declare(store, bench=None, secret="lab")
    store.close()
    return file


@pytest.fixture
def sql_store(tmp_path: Path, archive_template: Path) -> Iterator[Store]:
    """A store of one's own, with the schema and these two instruments."""
    file = tmp_path / "keepline.db"
    shutil.copy(archive_template, file)
    store = Store(f"sqlite:///{file}")
    yield store
    store.close()


@pytest.fixture
def capture_store(tmp_path: Path) -> Iterator[SqliteCaptureStore]:
    """A capture store of one's own, without sessions."""
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        yield store
