"""The README's five minutes are run as they stand, and say what they say there."""

from pathlib import Path

from tests.tour import dead_links, walk

README = Path(__file__).parents[2] / "README.md"


def test_five_minutes(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    tour = text[text.index("## Five minutes") : text.index("## Where to read on")]
    assert walk(tour, tmp_path) == 6


def test_every_guide_is_listed() -> None:
    text = README.read_text(encoding="utf-8")
    guides = {path.name for path in (README.parent / "docs" / "how-to").glob("*.md")}
    assert {name for name in guides if f"(docs/how-to/{name})" not in text} == set()


def test_links_lead_somewhere() -> None:
    assert dead_links(README) == []
