"""The tables that follow from raw rows: samples, markers, quarantine, arrivals."""

import json
import pathlib

from pyspark.sql import Window
from pyspark.sql import functions as F

IDENTITY = ["id_device", "run", "seq"]


def columns(table):
    """Of a table in tables.json, which Terraform reads as well. On Glue it lies in
    the working folder."""
    beside = pathlib.Path(__file__).with_name("tables.json")
    text = (beside if beside.exists() else pathlib.Path("tables.json")).read_text()
    return [(column["name"], column["type"]) for column in json.loads(text)[table]]


# Which objects a (device, run, seq) came in, as stretches of seqs: what counts
# duplicates and completeness, and says on which dates a sample may be already.
ARRIVALS = columns("arrivals")
MARKERS = columns("markers")
QUARANTINE = columns("quarantine")


def sample_columns(raw):
    """The columns of processed samples, given those of raw rows."""
    typed = {"timestamp": "timestamp"}
    found = [(name, typed.get(name, kind)) for name, kind in raw if name != "marker"]
    return [*found, *columns("samples")]


def select(rows, columns, *more):
    return rows.select(*[name for name, _ in columns], *more)


def samples(judged, raw):
    rows = judged.where("kind = 'sample' and reason is null")
    rows = rows.withColumn("timestamp", F.col("at"))
    return select(rows, sample_columns(raw), "event_date")


def without_duplicates(rows, raw):
    """One row of each identity: the best dated, then the first that was sent. What
    is left to choose follows from the values, so that the order of reading has no
    part in it."""
    plain = [name for name, kind in raw if kind in ("string", "double", "bigint", "boolean")]
    basis = {"clock": 0, "unsynced": 1}
    rank = F.coalesce(*[F.when(F.col("time_basis") == name, n) for name, n in basis.items()], F.lit(2))
    order = [rank, "timestamp_sent", "timestamp", *[name for name in plain if name not in IDENTITY]]
    window = Window.partitionBy(*IDENTITY).orderBy(*order)
    return rows.withColumn("nth", F.row_number().over(window)).where("nth = 1").drop("nth")


def markers(judged):
    rows = judged.where("kind = 'marker' and reason is null")
    said = ["kind", "run", "first_seq", "last_seq", "kept", "reason"]
    return rows.select(
        "id_device",
        F.col("at").alias("timestamp"),
        "timestamp_sent",
        "simulated",
        "agent_version",
        *[F.col(f"marker.{name}").alias(name) for name in said],
    )


def without_repeats(markers):
    """A marker says the same each time it is told: the first telling stays."""
    said = ["id_device", "kind", "run", "first_seq", "last_seq", "kept", "reason"]
    window = Window.partitionBy(*said).orderBy("timestamp_sent", "timestamp", "agent_version")
    return markers.withColumn("nth", F.row_number().over(window)).where("nth = 1").drop("nth")


def quarantine(judged, raw):
    record = F.to_json(F.struct(*[name for name, _ in raw]))
    rows = judged.where("reason is not null").withColumn("record", record)
    return select(rows, QUARANTINE, "sent_date")


def arrivals(judged):
    """Neighbouring seqs of one object, device, run and date, as one row."""
    rows = judged.where("id_device is not null and run is not null and seq >= 0")
    # A bad row is on no date.
    good = (F.col("kind") == "sample") & F.col("reason").isNull()
    rows = rows.withColumn("event_date", F.when(good, F.col("event_date")))
    of = ["sent_date", "raw_object", "id_device", "run", "event_date"]
    counted = rows.groupBy(*of, "seq").agg(F.count("*").alias("copies"))
    of.append("copies")
    nth = F.row_number().over(Window.partitionBy(*of).orderBy("seq"))
    stretches = counted.withColumn("stretch", F.col("seq") - nth).groupBy(*of, "stretch")
    rows = stretches.agg(F.min("seq").alias("first_seq"), F.max("seq").alias("last_seq"))
    return select(rows, ARRIVALS, "sent_date")


def dates_of(new, known):
    """The event dates that hold samples of the stretches in `new`, or will."""
    overlap = (
        (F.col("new.id_device") == F.col("known.id_device"))
        & (F.col("new.run") == F.col("known.run"))
        & (F.col("new.first_seq") <= F.col("known.last_seq"))
        & (F.col("new.last_seq") >= F.col("known.first_seq"))
    )
    before = new.alias("new").join(known.alias("known"), overlap).select("known.event_date")
    dates = new.select("event_date").union(before).where("event_date is not null").distinct()
    return sorted(row.event_date for row in dates.collect())
