"""The first tables of the sink."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    """CREATE TABLE reconcile.host (
        id TEXT NOT NULL,
        sequence BIGINT NOT NULL,
        cursor BIGINT NOT NULL,
        lost BIGINT DEFAULT 0 NOT NULL,
        reported_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        revision_at TIMESTAMP WITH TIME ZONE NOT NULL,
        converged_at TIMESTAMP WITH TIME ZONE,
        failed_at TIMESTAMP WITH TIME ZONE,
        name TEXT NOT NULL,
        labels JSONB NOT NULL,
        version TEXT NOT NULL,
        every FLOAT(53) NOT NULL,
        revision TEXT NOT NULL,
        chains TEXT NOT NULL,
        converged BOOLEAN NOT NULL,
        images BIGINT NOT NULL,
        ready BIGINT NOT NULL,
        failed BIGINT NOT NULL,
        faults BIGINT NOT NULL,
        drifted BIGINT NOT NULL,
        reason TEXT NOT NULL,
        message TEXT NOT NULL,
        PRIMARY KEY (id)
    )""",
    """CREATE TABLE reconcile.claim (
        host TEXT NOT NULL,
        id TEXT NOT NULL,
        pool TEXT NOT NULL,
        snapshot TEXT NOT NULL,
        image TEXT NOT NULL,
        holder TEXT NOT NULL,
        uid BIGINT NOT NULL,
        state TEXT NOT NULL,
        created TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (host, id),
        FOREIGN KEY(host) REFERENCES reconcile.host (id) ON DELETE CASCADE
    )""",
    """CREATE TABLE reconcile.condition (
        host TEXT NOT NULL,
        kind TEXT NOT NULL,
        pool TEXT NOT NULL,
        name TEXT NOT NULL,
        reason TEXT NOT NULL,
        severity TEXT NOT NULL,
        message TEXT NOT NULL,
        PRIMARY KEY (host, kind, pool, name, reason),
        FOREIGN KEY(host) REFERENCES reconcile.host (id) ON DELETE CASCADE
    )""",
    """CREATE TABLE reconcile.event (
        host TEXT NOT NULL,
        seq BIGINT NOT NULL,
        at TIMESTAMP WITH TIME ZONE NOT NULL,
        kind TEXT NOT NULL,
        pool TEXT NOT NULL,
        name TEXT NOT NULL,
        reason TEXT NOT NULL,
        message TEXT NOT NULL,
        run TEXT NOT NULL,
        PRIMARY KEY (host, seq),
        FOREIGN KEY(host) REFERENCES reconcile.host (id) ON DELETE CASCADE
    )""",
    """CREATE TABLE reconcile.image (
        host TEXT NOT NULL,
        name TEXT NOT NULL,
        pool TEXT NOT NULL,
        phase TEXT NOT NULL,
        reason TEXT NOT NULL,
        message TEXT NOT NULL,
        chain TEXT NOT NULL,
        size BIGINT NOT NULL,
        ready BIGINT NOT NULL,
        wanted BIGINT NOT NULL,
        PRIMARY KEY (host, name),
        FOREIGN KEY(host) REFERENCES reconcile.host (id) ON DELETE CASCADE
    )""",
    "CREATE INDEX image_name ON reconcile.image (name)",
    """CREATE TABLE reconcile.pool (
        host TEXT NOT NULL,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        message TEXT NOT NULL,
        total BIGINT NOT NULL,
        used BIGINT NOT NULL,
        available BIGINT NOT NULL,
        metadata_total BIGINT NOT NULL,
        metadata_used BIGINT NOT NULL,
        metadata_available BIGINT NOT NULL,
        PRIMARY KEY (host, name),
        FOREIGN KEY(host) REFERENCES reconcile.host (id) ON DELETE CASCADE
    )""",
    """CREATE TABLE reconcile.snapshot (
        host TEXT NOT NULL,
        pool TEXT NOT NULL,
        name TEXT NOT NULL,
        image TEXT NOT NULL,
        chain TEXT NOT NULL,
        state TEXT NOT NULL,
        active BOOLEAN NOT NULL,
        PRIMARY KEY (host, pool, name),
        FOREIGN KEY(host) REFERENCES reconcile.host (id) ON DELETE CASCADE
    )""",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
