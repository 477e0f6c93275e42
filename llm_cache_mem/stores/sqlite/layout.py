"""The tables of a database file, and whether a file holds them and nothing else."""

import sqlite3

__all__ = [
    "COUNTS",
    "DROP_REMOVED",
    "LEASES",
    "MAKE_HITS_REMOVED",
    "MAKE_REMOVED",
    "SCHEMA",
    "FileDamaged",
    "FileOutdated",
    "FileRefused",
    "is_damage",
    "is_laid_out",
    "schema_of",
]

_APPLICATION_ID = 0x4C434D31  # "LCM1"
_SCHEMA_VERSION = 2

# A part is what entries of one namespace, kind and model have in common. Values come last, so that
# reading the other columns of a large row stays on its first page. The index alone answers what
# lists, sums and removes by age.
_TABLES = (
    (
        "CREATE TABLE parts (id INTEGER PRIMARY KEY, space TEXT NOT NULL, model TEXT NOT NULL,"
        " entries INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, UNIQUE (space,"
        " model))"
    ),
    (
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, used INTEGER NOT"
        " NULL, stored_at REAL NOT NULL, expires_at REAL, part INTEGER NOT NULL, size INTEGER NOT"
        " NULL, value_bytes INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER"
        " NOT NULL, micros INTEGER, nanos INTEGER, data BLOB NOT NULL)"
    ),
    (
        "CREATE INDEX entries_used ON entries (used, expires_at, stored_at, part, size,"
        " value_bytes, input_tokens, output_tokens, micros, nanos)"
    ),
    (
        "CREATE TRIGGER entries_added AFTER INSERT ON entries BEGIN UPDATE parts SET entries ="
        " entries + 1, bytes = bytes + new.size WHERE id = new.part; END"
    ),
    (
        "CREATE TRIGGER entries_changed AFTER UPDATE OF size, part ON entries WHEN new.size <>"
        " old.size OR new.part <> old.part BEGIN UPDATE parts SET entries = entries - 1, bytes ="
        " bytes - old.size WHERE id = old.part; UPDATE parts SET entries = entries + 1, bytes ="
        " bytes + new.size WHERE id = new.part; END"
    ),
    (
        "CREATE TRIGGER entries_removed AFTER DELETE ON entries BEGIN UPDATE parts SET entries ="
        " entries - 1, bytes = bytes - old.size WHERE id = old.part; END"
    ),
)
LEASES = (  # made with the first lease
    "CREATE TABLE leases (key TEXT PRIMARY KEY, token TEXT NOT NULL, until REAL NOT NULL) WITHOUT"
    " ROWID"
)
COUNTS = (  # made with the first batch of counts
    (
        "CREATE TABLE totals (namespace TEXT NOT NULL, model TEXT NOT NULL, name TEXT NOT NULL,"
        " amount INTEGER NOT NULL, PRIMARY KEY (namespace, model, name)) WITHOUT ROWID"
    ),
    "CREATE TABLE hits (id INTEGER PRIMARY KEY, hits INTEGER NOT NULL, last REAL NOT NULL)",
    (
        "CREATE TABLE batches (id INTEGER PRIMARY KEY, process TEXT NOT NULL UNIQUE, number TEXT"
        " NOT NULL)"
    ),
    (
        "CREATE TRIGGER hits_removed AFTER DELETE ON entries BEGIN DELETE FROM hits WHERE id ="
        " old.id; END"
    ),
)
# Nothing else may be in the file: a trigger or a view of others would run with our statements.
_ALLOWED = frozenset(
    statement.encode()
    for statement in (
        *(*_TABLES, LEASES, *COUNTS),
        "CREATE TABLE sqlite_stat1(tbl,idx,stat)",  # of ANALYZE
        "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
    )
)
DROP_REMOVED = "DROP TRIGGER entries_removed"
MAKE_REMOVED = _TABLES[-1]
MAKE_HITS_REMOVED = COUNTS[-1]
SCHEMA = (
    *_TABLES,
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",  # to be raised with any change above
)


class FileRefused(Exception):
    """The file may not be used. *misconfigured*: the path cannot be right; otherwise a later
    version may read the file."""

    def __init__(self, reason: str, *, misconfigured: bool) -> None:
        super().__init__(reason)
        self.misconfigured = misconfigured


class FileDamaged(Exception):
    """The file says that it is ours, but what we keep in it is not there."""


class FileOutdated(Exception):
    """The file was written by an older version, in a form that this one does not read."""


def is_damage(exc: BaseException) -> bool:
    """Whether the file itself is broken. SQLite says so, in words that may quote it and then cannot
    be decoded."""
    if isinstance(exc, sqlite3.IntegrityError):
        return "parts." in str(exc)  # counters, which no input reaches
    if isinstance(exc, sqlite3.DatabaseError):
        return getattr(exc, "sqlite_errorcode", 0) & 0xFF in (
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_NOTADB,
        )
    return isinstance(exc, FileDamaged | UnicodeDecodeError)


def is_laid_out(db: sqlite3.Connection, path: str, *, read_only: bool) -> bool:
    """Whether our tables are there; False in an empty file, FileRefused in any other."""
    db.execute("BEGIN")  # one look: another process may be laying it out
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    statements = {
        statement for (statement,) in db.execute("SELECT CAST(sql AS TEXT) FROM sqlite_schema")
    }
    db.execute("ROLLBACK")
    if application == _APPLICATION_ID:
        if version > _SCHEMA_VERSION:
            reason = (
                f"{path} was written by a newer version of llm-cache-mem (schema"
                f" {version}, not {_SCHEMA_VERSION})"
            )
            raise FileRefused(reason, misconfigured=False)
        if version < _SCHEMA_VERSION and read_only:
            raise FileRefused(
                f"{path} was written by an older version of llm-cache-mem (schema"
                f" {version}, not {_SCHEMA_VERSION})",
                misconfigured=True,
            )
        if version < _SCHEMA_VERSION:
            raise FileOutdated
        if not statements.issuperset(statement.encode() for statement in _TABLES):
            raise FileDamaged("its tables are not as they were made")
        if statements - _ALLOWED - {None}:  # that is an index which SQLite makes itself
            raise FileRefused(
                f"{path} holds tables, views or triggers that this library did not make:"
                " remove them, or move the file away",
                misconfigured=False,
            )
        return True
    if application or statements:
        raise FileRefused(f"{path} is a database of another application", misconfigured=True)
    return False


def schema_of(db: sqlite3.Connection) -> bytes:
    """A number that changes with every change of what tables and triggers there are."""
    return b"%d" % db.execute("PRAGMA schema_version").fetchone()
