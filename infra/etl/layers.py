"""The layers of a lake: raw to processed to trusted.

usage: python -m layers --lake FOLDER
"""

import argparse
import fcntl
import logging
import pathlib
import sys

from pyspark.sql import SparkSession

from layers_job import run
from layers_store import LocalStore

SCHEMA = pathlib.Path(__file__).resolve().parent.parent / "schema" / "sample.json"


def options():
    parser = argparse.ArgumentParser(prog="layers", description=__doc__.splitlines()[0])
    parser.add_argument("--lake", required=True, type=pathlib.Path, help="the folder with data/ in it")
    parser.add_argument("--schema", default=SCHEMA, help="sample.json")
    parser.add_argument("--batch", type=positive, default=20_000, help="raw objects a commit")
    parser.add_argument("--buckets", type=positive, default=1, help="files a date")
    parser.add_argument("--rebuild", action="store_true", help="read all raw objects again")
    return parser.parse_args()


def positive(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def local_session():
    builder = SparkSession.builder.appName("layers").master("local[*]")
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "4",
        # Without it each file has a checksum beside it that outlives its file.
        "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
    }
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def main():
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    chosen = options()
    if not (chosen.lake / "data").is_dir():
        sys.exit(f"layers: there is no lake at {chosen.lake}: it has no folder data")
    if set("[]{}*?\\") & set(str(chosen.lake.absolute())):
        sys.exit(f"layers: Spark takes the brackets and stars of {chosen.lake} for a pattern; "
                 "give the folder another name or a link")
    (chosen.lake / "etl").mkdir(exist_ok=True)
    with open(chosen.lake / "etl" / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"layers: another run works on {chosen.lake}")
        spark = local_session()
        run(spark, LocalStore(chosen.lake), chosen.schema, chosen.batch, chosen.buckets, chosen.rebuild)
        spark.stop()


if __name__ == "__main__":
    main()
