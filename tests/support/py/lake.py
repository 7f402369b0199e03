"""Runs one SQL statement on a lake and prints its rows, one JSON object a line.

usage: lake.py FOLDER SQL

The statement sees every Parquet file under FOLDER as the table `lake`, with
`timestamp_sent` from the folder names. Ends with status 3 if there is no file.
"""

import json
import os
import pathlib
import shutil
import sys
import tempfile

import duckdb


def snapshot(folder, into):
    """Holds on to the files of this moment: DuckDB opens each several times, and
    an agent may put a longer one in its place meanwhile."""
    for path in folder.rglob("*.parquet"):
        held = into / path.relative_to(folder)
        held.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, held)
        except FileNotFoundError:
            continue  # It has expired.
        except OSError:  # Another file system: opened once, and read to its end.
            shutil.copyfile(path, held)
        yield str(held)


def rows(files, sql):
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    connection = duckdb.connect()
    # Left to itself DuckDB would read the partition `2026-11-24 02` as a timestamp.
    connection.execute(
        f"create view lake as from read_parquet([{quoted}], union_by_name = true,"
        " hive_partitioning = true, hive_types = {'timestamp_sent': varchar})"
    )
    answer = connection.execute(sql)
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row)) for row in answer.fetchall()]


with tempfile.TemporaryDirectory() as folder:
    files = sorted(snapshot(pathlib.Path(sys.argv[1]), pathlib.Path(folder)))
    if not files:
        sys.exit(3)
    for row in rows(files, sys.argv[2]):
        print(json.dumps(row, default=str))
