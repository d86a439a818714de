"""What the tests of capture stores start from, and the harm that a store may offer to take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keepline.capture.store import CaptureStore, StreamWriter
from keepline.testing.capture_stores.made import StoreFactory, start


class StoreFixtures:
    """The store under test, and a writer of a session in it."""

    @pytest.fixture
    def store_factory(self) -> StoreFactory:
        """Return what opens the store under test; a subclass has to give this."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, store_factory: StoreFactory) -> Iterator[CaptureStore]:
        """Open the store under test, and close it at the end."""
        with store_factory() as store:
            yield store

    @pytest.fixture
    def writer(self, store: CaptureStore) -> Iterator[StreamWriter]:
        """Start a session, and close its writer at the end."""
        writer = start(store)
        yield writer
        writer.close()

    def damage(self, store: CaptureStore, number: int, source: str, first_seq: int) -> None:
        """Change a byte of the raw content of the chunk that begins at `first_seq`."""
        pytest.skip("this store offers no way to damage a chunk")

    def remove(self, store: CaptureStore, number: int, source: str, first_seq: int) -> None:
        """Take away the chunk that begins at `first_seq`, without a trace."""
        pytest.skip("this store offers no way to lose a chunk")

    def expire(self, store: CaptureStore, writer: StreamWriter) -> None:
        """Let the hold of a living writer on its stream end."""
        pytest.skip("a writer of this store cannot lose its stream while it lives")
