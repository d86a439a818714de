"""Lock the dependencies with hashes, for every platform: `make lock`.

requirements/uv.txt locks uv, requirements/dev.txt the package with all its extras and the
developer's tools. Versions already locked stay, unless --upgrade (or --upgrade-package NAME) is
given. Refuses a file that names an address: which index or mirror serves a package is a matter
of the machine, and the hashes say that it is the right one.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
OPTIONS = (
    *("--quiet", "--universal", "--python-version", "3.11"),
    *("--generate-hashes", "--no-header", "--no-annotate"),
)
ADDRESS = re.compile(r"://|^\s*(-i|-f|--index-url|--extra-index-url|--find-links)\b", re.MULTILINE)


def main() -> int:
    """Write both lock files; return 1 when one of them names an address."""
    compile_lock("requirements/uv.txt", "requirements/uv.in")
    compile_lock("requirements/dev.txt", "--all-extras", "pyproject.toml", "requirements/dev.in")
    named = [path for path in ROOT.glob("requirements/*.txt") if ADDRESS.search(path.read_text())]
    for path in named:
        print(f"{path.relative_to(ROOT)} names an address", file=sys.stderr)
    return 1 if named else 0


def compile_lock(output: str, *sources: str) -> None:
    """Resolve the sources into one lock file."""
    command = (str(UV), "pip", "compile", *OPTIONS, *sys.argv[1:], "--output-file", output)
    subprocess.run((*command, *sources), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
