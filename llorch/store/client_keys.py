"""The client keys alone, for the command line: works beside a running orchestratord and leaves all else as it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from llorch.base.errors import HostError
from llorch.store import database
from llorch.store.statements import sql

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A client key and the tenant it speaks for: of the key only its SHA-256 is known."""

    name: str
    sha256: str
    created_at: float
    revoked_at: float | None
    tenant: str


class ClientKeys:
    """The table of keys; each change is durable when its call returns. Blocking."""

    def __init__(self, path: Path) -> None:
        """The database must be there, with the schema of this llorch: see database.open_beside. Raises HostError."""
        self._path = path
        self._connection = database.open_beside(path)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def all(self) -> list[ClientKey]:
        """Every key, revoked ones too, the oldest first."""
        return self._in_transaction(lambda connection: [ClientKey(*row) for row in connection.execute(sql("keys"))])

    def add(self, name: str, sha256: str, created_at: float, tenant: str | None = None) -> bool:
        """Store a new key's hash for `tenant`, None: one of the key's own name; False when the name is taken."""
        values = {"name": name, "sha256": sha256, "created_at": created_at, "tenant": tenant or name}

        def work(connection: sqlite3.Connection) -> bool:
            if any(row[0] == name for row in connection.execute(sql("keys"))):
                return False
            connection.execute(sql("add_key"), values)
            return True

        return self._in_transaction(work)

    def revoke(self, name: str, revoked_at: float) -> bool:
        """Revoke a key by name; False when no live key has it."""
        values = {"name": name, "revoked_at": revoked_at}
        return self._in_transaction(lambda connection: connection.execute(sql("revoke_key"), values).rowcount == 1)

    def _in_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise HostError(f"the keys in {self._path} cannot be used: {error}") from None
        return result
