"""What runs queries over Parquet files: Polars and DuckDB on this machine, Spark on many."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from rka_fast.errors import ConfigError

ROW_GROUP = 2**20
"""Rows of a row group, which is read at once."""


class Engine(Protocol):
    """Runs SQL over tables that are Parquet files."""

    def table(self, name: str, files: Sequence[Path]) -> None:
        """Let `name` be the rows of these files, or folders of files, one after the other."""

    def copy(self, sql: str, path: Path) -> None:
        """Write what a query finds, in its order, to a file or a folder of files in order."""

    def rows(self, sql: str) -> list[tuple]:
        """What a query finds, which is little."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""


class Polars:
    """Polars' streaming engine."""

    def __init__(self, work: Path) -> None:
        self._tables = pl.SQLContext()

    def table(self, name: str, files: Sequence[Path]) -> None:
        self._tables.register(name, pl.scan_parquet(list(files)))

    def copy(self, sql: str, path: Path) -> None:
        self._tables.execute(sql).sink_parquet(path, row_group_size=ROW_GROUP)

    def rows(self, sql: str) -> list[tuple]:
        return self._tables.execute(sql).collect(engine="streaming").rows()

    def close(self) -> None:
        self._tables = pl.SQLContext()


class DuckDB:
    """DuckDB in this process; what does not fit into memory goes to the folder `work`."""

    def __init__(self, work: Path) -> None:
        import duckdb

        self._connection = duckdb.connect(config={"temp_directory": str(work / "spilled")})

    def table(self, name: str, files: Sequence[Path]) -> None:
        listed = ", ".join(map(_quoted, files))
        self._connection.execute(
            f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM read_parquet([{listed}])"
        )

    def copy(self, sql: str, path: Path) -> None:
        form = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}"
        self._connection.execute(f"COPY ({sql}) TO {_quoted(path)} ({form})")

    def rows(self, sql: str) -> list[tuple]:
        return self._connection.execute(sql).fetchall()

    def close(self) -> None:
        self._connection.close()


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


class Spark:
    """Spark: the cluster that the program was submitted to, or else all cores of this machine.

    Files lie where every worker finds them under the same path.
    """

    def __init__(self, work: Path) -> None:
        from pyspark.sql import SparkSession

        builder: Any = SparkSession.builder
        builder = builder.appName("rka-fast prepare")
        self._own = SparkSession.getActiveSession() is None
        if self._own and "PYSPARK_GATEWAY_PORT" not in os.environ:  # nobody has submitted it
            builder = (
                builder.master("local[*]")
                .config("spark.ui.enabled", "false")
                .config("spark.driver.host", "127.0.0.1")
                .config("spark.sql.shuffle.partitions", str(2 * (os.cpu_count() or 1)))
                .config("spark.local.dir", str(work / "spilled"))
                .config("spark.sql.warehouse.dir", str(work / "warehouse"))
            )
        self._session: Any = builder.getOrCreate()
        self._session.sparkContext.setLogLevel("ERROR")

    def table(self, name: str, files: Sequence[Path]) -> None:
        frame = self._session.read.parquet(*(path.absolute().as_uri() for path in files))
        frame.createOrReplaceTempView(name)

    def copy(self, sql: str, path: Path) -> None:
        self._session.sql(sql).write.parquet(path.absolute().as_uri())

    def rows(self, sql: str) -> list[tuple]:
        return [tuple(row) for row in self._session.sql(sql).collect()]

    def close(self) -> None:
        if self._own:
            self._session.stop()


ENGINES: dict[str, type] = {"polars": Polars, "duckdb": DuckDB, "spark": Spark}
_NEEDED = {"duckdb": "duckdb", "spark": "pyspark"}


def why_not(name: str) -> str | None:
    """What an engine lacks on this machine and the remedy; None where it can be used."""
    needed = _NEEDED.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        return f"needs {needed}; pip install {needed}, or rka_fast with its extra: '.[{name}]'"
    if name == "spark" and not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        return "needs Java 17 or later; install it, or let JAVA_HOME name its folder"
    return None


def make_engine(name: str, work: Path) -> Engine:
    """The engine of a name, which may use the folder `work`.

    Raises ConfigError where what it needs is not installed.
    """
    if (reason := why_not(name)) is not None:
        raise ConfigError(f"engine {name!r} {reason}; or take --engine polars")
    return ENGINES[name](work)
