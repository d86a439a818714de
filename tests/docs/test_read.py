"""The how-to guide for reading from Python is run as it stands, and says what it says there."""

from pathlib import Path

import pytest

from tests.tour import walk

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "read.md"


@pytest.mark.timeout(300)  # many commands, each a process
def test_every_block_says_what_the_guide_says(tmp_path: Path) -> None:
    assert walk(GUIDE.read_text(encoding="utf-8"), tmp_path) == 9
