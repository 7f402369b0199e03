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
# Left to itself DuckDB would read the partition `2026-11-24 02` as a timestamp.
duckdb.sql(
    f"create view lake as from read_parquet([{quoted}], union_by_name = true,"
    " hive_partitioning = true, hive_types = {'timestamp_sent': varchar})"
)
answer = duckdb.sql(sql)
for row in answer.fetchall():
    print(json.dumps(dict(zip(answer.columns, row)), default=str))
