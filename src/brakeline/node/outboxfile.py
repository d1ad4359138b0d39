"""The file of an outbox: its tables, what an older build left in it, and whether it is a copy."""

from pathlib import Path
from typing import Final

from brakeline.core.errors import Refused, Unavailable
from brakeline.node.disk import connect, database_errors, disk_errors, transaction
from brakeline.node.ports import Connection

NAME: Final = "outbox.sqlite"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS said (
    key TEXT, lane TEXT, seq INTEGER, data BLOB NOT NULL, idx INTEGER, refused TEXT, instead TEXT, reviewed INTEGER,
    PRIMARY KEY (key, lane, seq)
)"""
_MOVED: Final = "CREATE TABLE IF NOT EXISTS reopened (entry INTEGER PRIMARY KEY)"  # what `Outbox.follow` has heeded
_PLACE: Final = "CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY CHECK (one = 1), inode INTEGER NOT NULL)"
# Of a home that is older than keys that change: all that it said, it said with one key.
_OLDER: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'outgoing'"
_MIGRATE: Final = """
INSERT INTO said SELECT ?1, lane, seq, data, idx, refused, ?1 || ' ' || instead, reviewed FROM outgoing"""


def open_outbox(folder: Path, key: str) -> tuple[Connection, bool]:
    """The outbox in a home, and whether it is a copy: another file than the one that was made first.

    Where there is none, it is made. `key` is the id of the key that it signs with.

    Raises:
        Unavailable: the disk, or the file is damaged.
    """
    file = folder / NAME
    try:
        with disk_errors(), database_errors():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            db = connect(file)
            for table in (_SCHEMA, _MOVED, _PLACE):
                db.execute(table)
            with transaction(db):
                inode = file.stat().st_ino
                db.execute("INSERT OR IGNORE INTO place VALUES (1, ?)", (inode,))
                copied = db.execute("SELECT inode FROM place").fetchone() != (inode,)
                if db.execute(_OLDER).fetchone():
                    db.execute(_MIGRATE, (key,))
                    db.execute("DROP TABLE outgoing")
            return db, copied
    except Refused as e:
        hint = "put it back from a copy, an older one is safe; or move it away: what it had not sent is lost"
        raise Unavailable(f"{file}: {e}", hint=hint) from e
