"""The ledger: what is done, failed (and why) and scored, item by item and unit by unit.

The one home of SQLAlchemy. One writer keeps it (the driver of the run that holds the job), in
batches, and only after the pixels are durable. SQLite in the job's folder, or any database that
SQLAlchemy reaches by URL and that knows ``ON CONFLICT``.

`rows` are its values, `tables` its schema; each part (`items`, `units`, `scores`, `exports`,
`notes`, `traces`, `objects`, `seals`, `let_go`, `runs`) reads and writes the rows of one subject,
and `ledger` joins them.
"""

from pipeline.storage.ledger.connections import absolute_url, ledger_file, without_password
from pipeline.storage.ledger.holding import hold_by_server
from pipeline.storage.ledger.ledger import FILE_NAME, Ledger
from pipeline.storage.ledger.rows import (
    DONE,
    EXPORT,
    FAILED,
    INGEST,
    INGESTED,
    LR,
    REJECTED,
    SR,
    VANISHED,
    ExportRow,
    ItemCount,
    ItemRow,
    LetGoRow,
    Note,
    ObjectRow,
    ScoreRow,
    SealRow,
    TraceRow,
    UnitRow,
    says,
)

__all__ = [
    "DONE",
    "EXPORT",
    "FAILED",
    "FILE_NAME",
    "INGEST",
    "INGESTED",
    "LR",
    "REJECTED",
    "SR",
    "VANISHED",
    "ExportRow",
    "ItemCount",
    "ItemRow",
    "Ledger",
    "LetGoRow",
    "Note",
    "ObjectRow",
    "ScoreRow",
    "SealRow",
    "TraceRow",
    "UnitRow",
    "absolute_url",
    "hold_by_server",
    "ledger_file",
    "says",
    "without_password",
]
