"""The declarations in the how-to guide are valid, and the second can follow the first."""

import re
from pathlib import Path

from keepline.records.declarations import parse
from keepline.records.summaries import PHQ9_ITEMS, phq9
from keepline.records.type_difference import difference

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "record-types.md"
BLOCK = re.compile(r"^```(toml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_block_is_valid() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    before, after = (parse(code, name="vial") for kind, code in blocks if kind == "toml")
    assert difference(before, after).renames == {"material": "specimen"}
    assert [field.type for field in before.fields][2:4] == ["real", "real"]
    for kind, code in blocks:
        if kind == "python":
            exec(compile(code, str(GUIDE), "exec"), {})  # noqa: S102 - the guide's own program


def test_the_scores_that_it_names_are_there() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    for name in phq9(dict.fromkeys(PHQ9_ITEMS)):
        assert f"`phq9.{name}`" in text
