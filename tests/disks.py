"""Disks that fail, for whatever keeps its state in SQLite."""

import sqlite3
from typing import Any


class FullDisk:
    """A connection whose every commit fails; all else is the real one's."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self.db.execute(sql, *parameters)
