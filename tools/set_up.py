"""Bring the virtual environment up to date: `python tools/set_up.py .venv`.

pip installs the locked uv; uv installs what requirements/dev.txt locks, then keepline itself,
editable. Each step is skipped when what it depends on is as it was the last time, which a small
file in the environment remembers. Runs on the standard library alone.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV_LOCK = ROOT / "requirements" / "uv.txt"
DEV_LOCK = ROOT / "requirements" / "dev.txt"
PROJECT = ROOT / "pyproject.toml"

# Settings that would change what is installed, or where to. Those about mirrors, proxies,
# certificates and caches stay.
FOREIGN_SETTINGS = {
    *("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"),
    *("PIP_CONSTRAINT", "PIP_DRY_RUN", "PIP_IGNORE_INSTALLED", "PIP_NO_BINARY", "PIP_NO_DEPS"),
    *("PIP_PREFIX", "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_ROOT", "PIP_TARGET", "PIP_USER"),
    *("UV_BUILD_CONSTRAINT", "UV_CONSTRAINT", "UV_EXCLUDE_NEWER", "UV_NO_BINARY", "UV_NO_BUILD"),
    *("UV_NO_BINARY_PACKAGE", "UV_NO_BUILD_PACKAGE", "UV_NO_VERIFY_HASHES", "UV_OVERRIDE"),
    *("UV_PYTHON", "UV_REQUIRE_HASHES", "UV_SYSTEM_PYTHON"),
}


class SetUpError(Exception):
    """A step failed; the text says which."""


def main() -> int:
    """Run the steps that are due, one caller at a time."""
    venv = ROOT / sys.argv[1]
    try:
        with only_one_at_a_time():
            set_up(venv)
    except SetUpError as error:
        print(f"set-up failed: {error}", file=sys.stderr)
        return 1
    return 0


def set_up(venv: Path) -> None:
    """Do each step that is due, and note it as soon as it is done."""
    python, uv = str(venv / "bin" / "python"), str(venv / "bin" / "uv")
    done = steps_done(venv)
    wanted = {
        "interpreter": f"{sys.version} {os.path.realpath(base_python())} {venv}",
        "installer": digest(UV_LOCK),
        "packages": digest(DEV_LOCK),
        "project": digest(PROJECT),
    }
    if done.get("interpreter") != wanted["interpreter"] or not Path(python).exists():
        say(f"making {venv.name} for Python {sys.version.split()[0]}")
        run("venv", base_python(), "-m", "venv", "--clear", str(venv))
        done = note(venv, {"interpreter": wanted["interpreter"]})
    if done.get("installer") != wanted["installer"] or not Path(uv).exists():
        say("installing uv")
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        run("pip install uv", *pip, "--no-user", "--require-hashes", "--requirement", str(UV_LOCK))
        done = note(venv, done | {"installer": wanted["installer"]})
    if done.get("packages") != wanted["packages"]:
        say("installing the locked packages")
        done = note(venv, {key: done[key] for key in ("interpreter", "installer")})
        sync = (uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python)
        run("uv pip sync", *sync, str(DEV_LOCK))
        done = note(venv, done | {"packages": wanted["packages"]})
    if done.get("project") != wanted["project"]:
        say("installing keepline (editable)")
        install = (uv, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
        run("uv pip install -e .", *install, "--python", python, "--editable", str(ROOT))
        note(venv, done | {"project": wanted["project"]})


@contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Hold a lock on the project's folder, which the end of the process releases as well."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def base_python() -> str:
    """Return the interpreter itself, also when this one belongs to a virtual environment."""
    return getattr(sys, "_base_executable", None) or sys.executable


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def steps_done(venv: Path) -> dict[str, str]:
    """Return what `note` wrote last, or nothing."""
    try:
        return dict(json.loads(memory(venv).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def note(venv: Path, done: dict[str, str]) -> dict[str, str]:
    """Remember the steps done so far, and return them."""
    memory(venv).write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    return done


def memory(venv: Path) -> Path:
    """Return the file in which the steps done are kept."""
    return venv / "keepline-set-up.json"


def run(step: str, *command: str) -> None:
    """Run a command without the foreign settings; its output is shown as it comes."""
    environment = {key: value for key, value in os.environ.items() if key not in FOREIGN_SETTINGS}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if code != 0:
        raise SetUpError(f"{step} ended with exit code {code}; its message stands above")


def say(text: str) -> None:
    """Tell the person who waits what is going on, on standard error."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
