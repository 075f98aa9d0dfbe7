"""A PostgreSQL server of our own, for tests: in a temporary directory, on 127.0.0.1.

It refuses to run as root: then it runs as the user ``postgres``, where there is one.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.servers import _die_with_parent, free_port

START_SECONDS = 30.0


def missing() -> str | None:
    """Say what keeps a server from being started here; None for nothing."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "no psycopg here"
    if _binary("initdb") is None:
        return "no PostgreSQL server here"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


def _binary(name: str) -> str | None:
    directories = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places = [str(directory) for directory in directories]
    return shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", "")]))


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


class PostgresServer:
    """A server process of our own; trusts whoever connects from this machine."""

    def __init__(self) -> None:
        self.port = free_port()
        self._directory = tempfile.mkdtemp(prefix="tiercache-postgres-")
        user = _user() if os.geteuid() == 0 else None
        self._owner = {"user": user.pw_uid, "group": user.pw_gid} if user else {}
        if user is not None:
            os.chown(self._directory, user.pw_uid, user.pw_gid)
        self._data = f"{self._directory}/data"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path(self._directory, "log")
        atexit.register(self.stop)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def _start(self) -> None:
        initdb, postgres = _binary("initdb"), _binary("postgres")
        assert initdb and postgres
        options = ["-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8"]
        with self._log.open("ab") as log:
            subprocess.run(
                [initdb, "-D", self._data, *options],
                check=True,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                **self._owner,
            )
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": self.port,
                "unix_socket_directories": "",
                "fsync": "off",
                "max_prepared_transactions": 5,
                "shared_buffers": "16MB",
                "timezone": "UTC",
            }
            chosen = [word for name in settings for word in ("-c", f"{name}={settings[name]}")]
            self._process = subprocess.Popen(
                [postgres, "-D", self._data, *chosen],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one system call, no lock
                **self._owner,
            )
        self._wait()

    def _wait(self) -> None:
        import psycopg

        deadline = time.monotonic() + START_SECONDS
        url = self.url.replace("+psycopg", "")
        assert self._process is not None
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                psycopg.connect(url, connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text()[-500:]}")

    def stop(self) -> None:
        """End it and remove its directory."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once, without a checkpoint
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
        atexit.unregister(self.stop)

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
