"""The sink's SQL: a batch is a few statements, however many rows it has, and one transaction.

Called by ``sink``. Rows are sent as one JSON array for each table. Composed from the fields of ``rows``; no name comes from
outside. No state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from reconciler.dataclass import fields
from reconciler.fleet.batch import Batch
from reconciler.fleet.rows import KEYS, TABLES, Event, Host, Row

SCHEMA = "reconcile"
"""The schema of the database that all tables are in."""

EVENTS_KEPT = 1000
"""The newest events of each host that the sink keeps."""

TYPES = {
    "str": "text",
    "int": "bigint",
    "float": "double precision",
    "bool": "boolean",
    "datetime": "timestamptz",
    "Mapping[str, str]": "jsonb",
}
"""The type of a column, by that of its field."""

Statement = tuple[str, Mapping[str, Any]]


_OF = {**TABLES, "host": Host, "event": Event}


@cache
def columns(table: str) -> dict[str, str]:
    """The types of a table's columns, by name; without the host's id."""
    return {one.name: TYPES[str(one.type)] for one in fields(_OF[table])}


def _listed(names: Sequence[str], prefix: str = "") -> str:
    return ", ".join(f'{prefix}"{name}"' for name in names)


def _given(types: Mapping[str, str]) -> str:
    typed = ", ".join(f'"{name}" {kind}' for name, kind in types.items())
    return f"jsonb_to_recordset(%(rows)s::jsonb) AS given({typed})"


@cache
def put(table: str) -> str:
    """Write rows; one that is the same already is not written again."""
    types, keys = columns(table), KEYS[table]
    rest = [name for name in types if name not in keys]
    return f"""
        INSERT INTO {SCHEMA}.{table} AS old (host, {_listed(list(types))})
        SELECT %(host)s, {_listed(list(types), "given.")} FROM {_given(types)}
        ON CONFLICT (host, {_listed(keys)}) DO UPDATE SET ({_listed(rest)}) = ROW({_listed(rest, "excluded.")})
        WHERE ({_listed(rest, "old.")}) IS DISTINCT FROM ({_listed(rest, "excluded.")})"""  # noqa: S608 - constants


@cache
def drop(table: str, *, others: bool) -> str:
    """Delete rows of a host: those with the keys of the rows that are given, or all others."""
    keys = {name: columns(table)[name] for name in KEYS[table]}
    same = " AND ".join(f'given."{name}" = old."{name}"' for name in keys)
    found = f"EXISTS (SELECT FROM {_given(keys)} WHERE {same})"
    return f"DELETE FROM {SCHEMA}.{table} AS old WHERE host = %(host)s AND {'NOT ' if others else ''}{found}"  # noqa: S608


_HOST = columns("host")
STATE = f"""
    SELECT host.sequence, host.cursor FROM (SELECT 1) AS one
    LEFT JOIN {SCHEMA}.host ON host.id = %(host)s
"""  # noqa: S608
PUT_HOST = f"""
    INSERT INTO {SCHEMA}.host AS old (id, sequence, cursor, {_listed(list(_HOST))}, revision_at, converged_at, failed_at)
    SELECT %(host)s, %(sequence)s, 0, {_listed(list(_HOST), "given.")},
        now(), CASE WHEN given.converged THEN now() END, CASE WHEN given.failed + given.faults > 0 THEN now() END
    FROM {_given(_HOST)}
    WHERE %(base)s::bigint IS NULL OR EXISTS (SELECT FROM {SCHEMA}.host WHERE id = %(host)s)
    ON CONFLICT (id) DO UPDATE SET reported_at = now(), sequence = excluded.sequence,
        ({_listed(list(_HOST))}) = ROW({_listed(list(_HOST), "excluded.")}),
        revision_at = CASE WHEN old.revision = excluded.revision THEN old.revision_at ELSE now() END,
        converged_at = CASE WHEN old.revision = excluded.revision AND old.converged AND excluded.converged
            THEN old.converged_at ELSE excluded.converged_at END,
        failed_at = CASE WHEN old.failed_at IS NOT NULL AND excluded.failed_at IS NOT NULL
            THEN old.failed_at ELSE excluded.failed_at END
    WHERE old.sequence < excluded.sequence AND (%(base)s::bigint IS NULL OR old.sequence = %(base)s::bigint)
    RETURNING 1
"""  # noqa: S608
RESTART = (
    f"WITH gone AS (DELETE FROM {SCHEMA}.event WHERE host = %(host)s) UPDATE {SCHEMA}.host SET cursor = 0 WHERE id = %(host)s"  # noqa: S608
)
_EVENT = columns("event")
PUT_EVENTS = f"""
    INSERT INTO {SCHEMA}.event (host, {_listed(list(_EVENT))})
    SELECT %(host)s, {_listed(list(_EVENT), "given.")} FROM {_given(_EVENT)}
    WHERE EXISTS (SELECT FROM {SCHEMA}.host WHERE id = %(host)s)
    ON CONFLICT DO NOTHING
"""  # noqa: S608
TRIM = f"""
    DELETE FROM {SCHEMA}.event WHERE host = %(host)s
    AND seq <= (SELECT max(seq) FROM {SCHEMA}.event WHERE host = %(host)s) - {EVENTS_KEPT}
"""  # noqa: S608
ADVANCE = f"""
    UPDATE {SCHEMA}.host SET cursor = %(last)s, lost = lost + %(lost)s
    WHERE id = %(host)s AND cursor < %(last)s AND cursor >= %(after)s
"""  # noqa: S608
"""The cursor moves only where the sink has everything up to it: an event that is on its way is not skipped."""


def of_picture(batch: Batch) -> Iterator[Statement]:
    """What makes the rows of a host those of the batch."""
    for table in TABLES:
        rows, gone = batch.put.get(table, ()), batch.gone.get(table, ())
        if rows:
            yield put(table), {"host": batch.id, "rows": encoded(rows)}
        if batch.base is None:
            yield drop(table, others=True), {"host": batch.id, "rows": encoded(rows)}
        elif gone:
            yield drop(table, others=False), {"host": batch.id, "rows": encoded(gone)}


def of_host(batch: Batch) -> Statement:
    return PUT_HOST, {"host": batch.id, "sequence": batch.sequence, "base": batch.base, "rows": encoded([batch.host])}


def of_events(batch: Batch) -> Iterator[Statement]:
    if not batch.events:
        return
    last = batch.events[-1].seq
    yield PUT_EVENTS, {"host": batch.id, "rows": encoded(batch.events)}
    yield ADVANCE, {"host": batch.id, "last": last, "after": batch.after, "lost": batch.lost}
    yield TRIM, {"host": batch.id}


def encoded(rows: Sequence[Row | Host | Event]) -> str:
    """Rows as JSON that PostgreSQL takes: it has no NUL and no lone surrogates."""
    return json.dumps([{one.name: _value(getattr(row, one.name)) for one in fields(row)} for row in rows])


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_value(key): _value(one) for key, one in value.items()}
    return value.isoformat() if isinstance(value, datetime) else value
