"""The text of the statements that write rows: composed once for each set of columns, so that SQLite compiles each once.

Called by ``writer`` and ``history``. Values are bound by the names of their columns, which are those of ``tables``; no name comes
from outside. No state.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache


@cache
def insert(table: str, columns: tuple[str, ...], *, replace: bool = False) -> str:
    """Insert a row; ``replace`` the one that has its key."""
    names, values = ", ".join(f'"{name}"' for name in columns), ", ".join(f":{name}" for name in columns)
    return f"INSERT {'OR REPLACE ' if replace else ''}INTO {table} ({names}) VALUES ({values})"  # noqa: S608


@cache
def update(table: str, columns: tuple[str, ...], where: str) -> str:
    return f"UPDATE {table} SET {_equal(columns, ', ')} WHERE {where}"  # noqa: S608


@cache
def delete(table: str, columns: tuple[str, ...]) -> str:
    """Delete the rows that have these values."""
    return f"DELETE FROM {table} WHERE {_equal(columns, ' AND ')}"  # noqa: S608


def _equal(columns: Iterable[str], between: str) -> str:
    return between.join(f'"{name}" = :{name}' for name in columns)
