"""Opening the one SQLite file: pragmas, migrations, and what happens to a file that is corrupt or too new."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path

from llorch.base import log
from llorch.base.errors import ConfigError, HostError
from llorch.store.statements import script

logger = log.get(__name__)

# Script n brings a database from version n to n + 1.
SCRIPTS = ("schema.sql", "schema_2.sql")
CHECKED_SIZE_MAX = 64 << 20
BUSY_TIMEOUT_S = 5.0
# When opening gives free pages back to the disk: worth it, and done in a second or two, in memory.
COMPACT_FREE_MIN = 64 << 20
COMPACT_USED_MAX = 256 << 20
CACHED_STATEMENTS = 256  # every statement once, and those of many rows once for each number of rows
_PRAGMAS = ("synchronous = FULL", "secure_delete = ON", "foreign_keys = ON")
_COMPANIONS = ("", "-wal", "-shm")


class SchemaTooNew(ConfigError):
    """The database was written by a newer llorch."""


class _Corrupt(HostError):
    """The database file is damaged."""


def open_writer(path: Path, scripts: tuple[str, ...] = SCRIPTS) -> sqlite3.Connection:
    """The writing connection: created or migrated as needed, WAL, synchronous FULL, mode 0600.

    A corrupt file is renamed to `NAME.corrupt-TIME` with a clear log line, and an empty one takes its place. One that
    is for the most part free is made small. Raises SchemaTooNew, HostError when the file cannot be opened.
    """
    try:
        return _open(path, scripts)
    except _Corrupt as damage:
        aside = set_aside(path)
        log.event(
            logger,
            f"{path.name} is damaged ({damage.message}); it was set aside as {aside.name} and a new one was started: "
            "jobs, workers and keys of the old one are not known any more",
            level=logging.ERROR,
        )
        return _open(path, scripts)


def open_reader(path: Path) -> sqlite3.Connection:
    """A second connection that only reads; WAL lets it run beside the writer. Raises HostError."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
        )
    except sqlite3.OperationalError as error:
        raise HostError(f"the database {path} cannot be opened: {error}") from None
    connection.execute("PRAGMA query_only = ON")
    return connection


def is_current(path: Path, scripts: tuple[str, ...] = SCRIPTS) -> bool:
    """Is there a database with the schema of this llorch? False: none yet, or an older one. Changes nothing.

    Raises SchemaTooNew, HostError when it cannot be read.
    """
    if not path.exists() or path.stat().st_size == 0:
        return False
    connection = open_reader(path)
    try:
        return version_of(connection, scripts) == len(scripts)
    except sqlite3.DatabaseError as error:
        raise HostError(f"the database {path} cannot be read: {error}") from None
    finally:
        connection.close()


def open_beside(path: Path) -> sqlite3.Connection:
    """A writing connection to a current database; it neither checks, repairs nor migrates. Raises HostError."""
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S
        )
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.DatabaseError as error:
        raise HostError(f"the database {path} cannot be opened: {error}") from None
    return connection


def set_aside(path: Path) -> Path:
    """Rename the database and its companions; the new name of the main file."""
    suffix = f".corrupt-{int(time.time())}"
    for companion in _COMPANIONS:
        part = path.with_name(path.name + companion)
        if part.exists():
            part.rename(path.with_name(path.name + suffix + companion))
    return path.with_name(path.name + suffix)


def _open(path: Path, scripts: tuple[str, ...]) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        connection = sqlite3.connect(
            path,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_S,
            cached_statements=CACHED_STATEMENTS,
        )
    except (OSError, sqlite3.OperationalError) as error:
        raise HostError(f"the database {path} cannot be opened: {error}") from None
    try:
        _prepare(connection, path)
        migrate(connection, scripts)
        _compact(connection, path)
    except sqlite3.DatabaseError as error:
        connection.close()
        if is_damage(error):
            raise _Corrupt(str(error)) from None
        raise HostError(f"the database {path} cannot be used: {error}") from None
    except HostError:
        connection.close()
        raise
    return connection


def is_damage(error: sqlite3.Error) -> bool:
    """Does SQLite say that the file's content is not a sound database?"""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    for pragma in ("journal_mode = WAL", *_PRAGMAS):
        connection.execute(f"PRAGMA {pragma}")
    # A full check reads the whole file; larger ones show damage when the damaged page is read.
    if path.stat().st_size <= CHECKED_SIZE_MAX:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _Corrupt(str(verdict).splitlines()[0])


def _compact(connection: sqlite3.Connection, path: Path) -> None:
    """Rewrite a file that is for the most part free pages; when that cannot be, it stays as large as it is."""
    size, pages, free_pages = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    free, used = free_pages * size, (pages - free_pages) * size
    if free < max(COMPACT_FREE_MIN, used) or used > COMPACT_USED_MAX:
        return
    try:
        connection.execute("PRAGMA temp_store = MEMORY")  # prompts have no business in the system's temporary folder
        connection.execute("VACUUM")
        connection.execute("PRAGMA temp_store = DEFAULT")
        log.event(logger, f"{path.name} was compacted", bytes_before=free + used, bytes_after=used)
    except sqlite3.Error as error:
        log.event(logger, f"{path.name} could not be compacted: {error}", level=logging.WARNING)


def migrate(connection: sqlite3.Connection, scripts: tuple[str, ...]) -> None:
    """Run the scripts that this database has not seen, each in one transaction. Raises SchemaTooNew."""
    version = version_of(connection, scripts)
    for number, name in enumerate(scripts[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script(name)}\nPRAGMA user_version = {number};\nCOMMIT;")


def version_of(connection: sqlite3.Connection, scripts: tuple[str, ...] = SCRIPTS) -> int:
    """The schema version of a database. Raises SchemaTooNew."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(scripts):
        raise SchemaTooNew(
            f"the database has schema version {version}, this llorch knows {len(scripts)}: "
            "run the newer llorch, or start with another --state directory"
        )
    return int(version)
