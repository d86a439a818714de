"""What every capture store has to keep: a suite that its author can run.

Subclass CaptureStoreSuite in a test module, and give it a fixture `store_factory`::

    class TestMyCaptureStore(CaptureStoreSuite):
        @pytest.fixture
        def store_factory(self, tmp_path):
            return functools.partial(MyCaptureStore, tmp_path / "capture")

The factory opens the same store at each call, empty at first, and can be pickled, because
some of the tests open it in other processes too. A writer whose process died may be taken for
alive for some seconds, not more than ten.

A store can also say how to do harm to it: by the methods `damage`, `remove` and `expire`. A
test for which there is no such method is skipped.
"""

from __future__ import annotations

from keepline.testing.capture_stores.holds import HoldTests
from keepline.testing.capture_stores.losses import LossTests
from keepline.testing.capture_stores.made import START, StoreFactory, chunk_of, end, start
from keepline.testing.capture_stores.sessions import SessionTests
from keepline.testing.capture_stores.streams import StreamTests

__all__ = ["START", "CaptureStoreSuite", "StoreFactory", "chunk_of", "end", "start"]


class CaptureStoreSuite(SessionTests, StreamTests, LossTests, HoldTests):
    """Tests of the promises that the protocol CaptureStore makes."""
