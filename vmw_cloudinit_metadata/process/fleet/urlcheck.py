"""Checks the address of the fleet's database as libpq reads it, in a process of its own: a server
would keep 10 MB of psycopg for one look.

    python -m vmw_cloudinit_metadata.process.fleet.urlcheck

reads an address, and writes what is wrong with it.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.process.interpreter import command_of

LIMIT_S = 30.0
NEEDED = "needs pip install 'vmw-cloudinit-metadata[fleet]'"

_QUOTED = re.compile('".*"', re.DOTALL)  # may be the password
_SHOWN = "invalid URI query parameter"  # only the name of a parameter is quoted

_OURS = (  # what fleetdatabase asks of libpq, whatever the address has
    *("connect_timeout", "tcp_user_timeout", "client_encoding", "application_name"),
    *("keepalives_idle", "keepalives_interval", "keepalives_count"),
)
_TAKES_WRITES = ("any", "read-write", "primary")
_NOWHERE = "/nonexistent/vmw-cloudinit-metadata"
_NUMBER = re.compile("[0-9]{1,5}")
_MAX_PORT = 65535
# The rest of such a password is taken for the host or the database.
_ESCAPED = "in a password, write / as %2F, ? as %3F, # as %23, @ as %40 and % as %25"


def problem_of(url: str) -> str:
    """Return what is wrong with an address, without quoting what may be secret; "": nothing."""
    try:
        # This Python with a module of ours. The address may be secret, and is no argument.
        done = subprocess.run(  # nosec B603
            command_of(__name__),
            input=str.__str__(url).encode(),
            stdout=subprocess.PIPE,
            check=True,
            timeout=LIMIT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"the address cannot be checked ({type(error).__name__})"
    return done.stdout.decode().strip()


def main() -> None:
    print(problem_for_libpq(sys.stdin.buffer.read().decode()))


def problem_for_libpq(url: str) -> str:
    """Do the work of `problem_of`, in this process."""
    try:  # an extra
        import cryptography  # noqa: F401 - for moves
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        return f"{NEEDED} ({error.name} is missing)"
    try:
        return problem_among(conninfo_to_dict(url))
    except psycopg.Error as error:
        text = str(error).strip()
        return text if text.startswith(_SHOWN) else _QUOTED.sub("(hidden)", text)


def problem_among(parameters: Mapping[str, Any]) -> str:
    """Return what is wrong with what libpq has read in an address, without a quote; "": nothing."""
    for name in _OURS:
        if name in parameters:
            return f"{name} is set by the server: remove it from the address"
    if parameters.get("target_session_attrs", "any") not in _TAKES_WRITES:
        return "target_session_attrs must be read-write, as it is without it: remove it"
    if not all(map(_is_port, str(parameters.get("port", "")).split(","))):
        return f"expected a port from 1 to {_MAX_PORT}; {_ESCAPED}"
    if problem := _problem_of_values(parameters):
        return problem
    file = parameters.get("passfile") or os.environ.get("PGPASSFILE")
    return _problem_of_file(Path(file)) if file and "password" not in parameters else ""


def _problem_of_values(parameters: Mapping[str, Any]) -> str:
    """Ask libpq whether it takes the values, such as sslmode's: with a socket that is nowhere in
    place of each host, it reaches nothing."""
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    hosts = str(parameters.get("host") or parameters.get("hostaddr") or "").split(",")
    kept = {name: value for name, value in parameters.items() if name != "hostaddr"}
    nowhere = {"host": ",".join(_NOWHERE for _ in hosts)}
    connection = pq.PGconn.connect_start(make_conninfo(**{**kept, **nowhere}).encode())
    try:
        text = connection.error_message.decode(errors="replace").strip()
    finally:
        connection.finish()
    return "" if _NOWHERE in text else _QUOTED.sub("(hidden)", text)


def _problem_of_file(file: Path) -> str:
    """libpq ignores such a file, and the database then misses the password."""
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
    except OSError as error:
        return f"the password file cannot be read: {error.strerror}"
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return "libpq ignores the password file, since others have access to it: chmod 600"
    return ""


def _is_port(text: str) -> bool:
    return not text or (bool(_NUMBER.fullmatch(text)) and 0 < int(text) <= _MAX_PORT)


if __name__ == "__main__":
    main()
