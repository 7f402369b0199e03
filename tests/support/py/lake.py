"""Runs one SQL statement on a lake and prints its rows, one JSON object a line.

usage: lake.py FOLDER SQL

The statement sees every Parquet file under FOLDER as the table `lake`, with
`timestamp_sent` from the folder names. Ends with status 3 if there is no file.
"""

import json
import pathlib
import sys

import duckdb

folder, sql = pathlib.Path(sys.argv[1]), sys.argv[2]
files = sorted(str(path) for path in folder.rglob("*.parquet"))
if not files:
    sys.exit(3)
quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
connection = duckdb.connect()
# Left to itself DuckDB would read the partition `2026-11-24 02` as a timestamp.
connection.execute(
    f"create view lake as from read_parquet([{quoted}], union_by_name = true,"
    " hive_partitioning = true, hive_types = {'timestamp_sent': varchar})"
)
# `sql` in place of `execute` reads a file's footer first and its columns later,
# when an agent may have put a longer file in its place.
answer = connection.execute(sql)
names = [column[0] for column in answer.description]
for row in answer.fetchall():
    print(json.dumps(dict(zip(names, row)), default=str))
