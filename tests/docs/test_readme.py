"""The README's five minutes are run as they stand, and say what they say there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _run(kind: str, code: str, folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KEEPLINE_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["COLUMNS"] = "160"
    command = ["bash", "-euc", code] if kind == "sh" else [sys.executable, "-c", code]
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, f"{code}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


def _matches(expected: str, found: str) -> bool:
    """Return whether the line is there: spaces count as one, ... stands for anything."""
    pattern = ".*".join(map(re.escape, " ".join(expected.split()).split("...")))
    return any(re.fullmatch(pattern, " ".join(line.split())) for line in found.splitlines())


def test_five_minutes(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    tour = text[text.index("## Five minutes") : text.index("## Where to read on")]
    blocks = BLOCK.findall(tour)
    assert [kind for kind, _ in blocks].count("text") == 6
    folder, said = tmp_path, ""
    for kind, code in blocks:
        if kind == "text":
            for line in code.splitlines():
                assert _matches(line, said), f"{line!r} is not in:\n{said}"
        else:
            said = _run(kind, code, folder)
            if kind == "sh" and "cd bench" in code:
                folder = tmp_path / "bench"


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (README.parent / target).exists()] == []
