"""A document's blocks, run as they stand: commands and programs, and what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def walk(text: str, folder: Path) -> int:
    """Run the blocks in order, from `folder` on, and return how many texts were there.

    Every line of a text has to be among what the block before it printed.
    """
    said, texts = "", 0
    for kind, code in BLOCK.findall(text):
        if kind == "text":
            texts += 1
            for line in code.splitlines():
                assert _matches(line, said), f"{line!r} is not in:\n{said}"
        else:
            said = _run(kind, code, folder)
            if kind == "sh" and "\ncd bench" in code:
                folder = folder / "bench"
    return texts


def dead_links(document: Path) -> list[str]:
    """Return the links of a document that lead to no file."""
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    assert targets
    return [target for target in targets if not (document.parent / target).exists()]


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
