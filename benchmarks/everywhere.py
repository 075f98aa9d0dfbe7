"""Run ``benchmarks.suite`` on every Python of this machine, each in its own environment.

Needs nothing installed: `make bench` runs it with the plain python3. Environments stay in
``.venv-bench-*`` for the next run. A rival without a wheel for a Python is left out there,
with a line that says so; arguments are handed on to the suite. At the end the charts are drawn,
and README.md's table is printed as these results have it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("rich", "matplotlib", "tiercache-toolkit")


def main(arguments: list[str]) -> int:
    pythons = _pythons()
    failed = []
    for number, (version, python) in enumerate(pythons):
        further = ["--further"] if number else []
        if _bench(version, python, [*arguments, *further]):
            failed.append(version)
    _run(_environment(*pythons[0]), "benchmarks.charts")
    _run(_environment(*pythons[0]), "benchmarks.speed_table")
    if failed:
        print(f"failed on {', '.join(failed)}", file=sys.stderr)
    return len(failed)


def _pythons() -> list[tuple[str, str]]:
    """Return version and path of every Python here."""
    listed = subprocess.run(
        [ROOT / ".ci" / "pythons"], check=True, capture_output=True, text=True
    ).stdout
    found = (line.partition(" ") for line in listed.splitlines())
    return [(version, path) for version, _, path in found]


def _bench(version: str, python: str, arguments: list[str]) -> int:
    """Measure on one Python; return its exit status."""
    print(f"\n== Python {version}", flush=True)
    return _run(_environment(version, python), "benchmarks.suite", *arguments)


def _run(interpreter: Path, module: str, *arguments: str) -> int:
    command = [interpreter, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=_variables(), check=False).returncode


def _environment(version: str, python: str) -> Path:
    """Make or reuse the environment of that version; return its interpreter."""
    home = ROOT / f".venv-bench-{version}"
    interpreter, stamp = home / "bin" / "python", home / ".installed"
    pyproject = ROOT / "pyproject.toml"
    if stamp.exists() and stamp.stat().st_mtime >= pyproject.stat().st_mtime:
        return interpreter
    print(f"preparing {home.name}", flush=True)
    subprocess.run([python, "-m", "venv", home], check=True)
    if not _install(interpreter, "-e", ".[bench]"):
        _install_one_by_one(interpreter, pyproject)
    stamp.touch()
    return interpreter


def _install_one_by_one(interpreter: Path, pyproject: Path) -> None:
    """Install what can be had as wheels, naming what cannot."""
    extras = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]
    _install(interpreter, "-e", ".[demo]", needed=True)
    for requirement in extras["bench"]:
        if requirement.startswith("tiercache-toolkit"):
            continue
        needed = requirement.startswith(NEEDED)
        if not _install(interpreter, "--only-binary", ":all:", requirement, needed=needed):
            print(f"left out: {requirement} has no wheel for this Python", flush=True)


def _install(interpreter: Path, *what: str, needed: bool = False) -> bool:
    command = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, *what], cwd=ROOT, capture_output=True, text=True, check=False)
    if needed and done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    return not done.returncode


def _variables() -> dict[str, str]:
    """Return the environment variables without what would lead Python astray."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONPATH", "PYTHONHOME", "PYTHONDEVMODE"}
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
