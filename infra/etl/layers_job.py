"""One run: what arrived since the last one, through all tables."""

import logging

from pyspark.sql import functions as F

import layers_rows as rows
import layers_tables as tables
import layers_trusted as trusted
from layers_state import STAGING, State

log = logging.getLogger("layers")

SAMPLES, MARKERS = "processed/samples", "processed/markers"
HOURLY, DAILY, COMPLETENESS = "trusted/hourly", "trusted/daily", "trusted/completeness"
QUARANTINE, ARRIVALS = "quarantine", "etl/state/arrivals"

SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    # What Athena and DuckDB read as a timestamp without being asked to.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # What cannot be cast is null, and then judged.
    "spark.sql.ansi.enabled": "false",
    "spark.sql.parquet.mergeSchema": "false",
}


def run(spark, store, schema, batch=20_000, buckets=1, rebuild=False):
    """Takes in all raw objects that are new, `batch` at most at once; how many."""
    for key, value in SETTINGS.items():
        spark.conf.set(key, value)
    state = State(store)
    state.recover()
    if rebuild:
        state.forget()
    raw, waiting = rows.columns(schema), state.unseen()
    log.info("%d raw objects are new", len(waiting))
    for at in range(0, len(waiting), batch):
        Batch(spark, store, state, raw, buckets).take(waiting[at : at + batch])
    return len(waiting)


class Batch:
    """One commit's worth of raw objects."""

    def __init__(self, spark, store, state, raw, buckets):
        self.spark, self.store, self.state = spark, store, state
        self.raw, self.buckets = raw, buckets
        self.staging = f"{STAGING}/{state.number + 1:010d}"
        self.moves, self.deletes = [], []

    def take(self, names):
        held = self.store.hold(names, f"{self.staging}/raw")
        judged, bad = self.judged({name: self.store.path(link) for name, (link, _) in held.items()})
        judged.persist()
        dates = self.processed(judged, bad, list(held))
        self.trusted(judged, dates)
        self.state.commit({name: stamp for name, (_, stamp) in held.items()}, self.moves, self.deletes)
        judged.unpersist()
        said = ", ".join(str(date) for date in dates)
        log.info("%d raw objects taken in, %d unreadable; dates: %s", len(held), len(bad), said)

    def judged(self, paths):
        """The rows of these objects, and which objects cannot be read."""
        good, bad = rows.readable(self.spark, self.raw, paths)
        for name, why in bad.items():
            log.warning("%s cannot be read: %s", name, why)
        if good:
            found = rows.read(self.spark, self.raw, [paths[name] for name in good])
        else:
            columns = f"{rows.ddl(self.raw)}, raw_object string, timestamp_sent timestamp, sent_date date"
            found = self.spark.createDataFrame([], columns)
        return rows.judge(found), bad

    def processed(self, judged, bad, names):
        """The tables of rows, and which event dates they touch."""
        arrived, known = tables.arrivals(judged), self.stored(ARRIVALS, tables.ARRIVALS, "sent_date")
        dates = tables.dates_of(arrived, known)
        old = self.stored(SAMPLES, tables.sample_columns(self.raw), "event_date", dates)
        samples = tables.samples(judged, self.raw).unionByName(old)
        samples = tables.without_duplicates(samples, self.raw)
        self.stage(samples, SAMPLES, tables.IDENTITY, "event_date", dates)

        markers = tables.markers(judged).unionByName(self.stored(MARKERS, tables.MARKERS))
        by = ["id_device", "run", "kind", "first_seq", "last_seq", "kept", "reason"]
        self.stage(tables.without_repeats(markers), MARKERS, by)

        # An object that grew replaces what was known of it.
        objects = self.spark.createDataFrame([(name,) for name in names], "raw_object string")
        hours = sorted({row.sent_date for row in self.sent_dates(judged, bad)})
        known = self.stored(ARRIVALS, tables.ARRIVALS, "sent_date", hours)
        known = known.join(F.broadcast(objects), "raw_object", "anti")
        by = [name for name, _ in tables.ARRIVALS]
        self.stage(arrived.unionByName(known), ARRIVALS, by, "sent_date", hours)

        quarantined = tables.quarantine(judged, self.raw).unionByName(self.unreadable(bad))
        known = self.stored(QUARANTINE, tables.QUARANTINE, "sent_date", hours)
        known = known.join(F.broadcast(objects), "raw_object", "anti")
        by = [name for name, _ in tables.QUARANTINE]
        self.stage(quarantined.unionByName(known), QUARANTINE, by, "sent_date", hours)
        return dates

    def trusted(self, judged, dates):
        samples = self.staged(SAMPLES, tables.sample_columns(self.raw), "event_date")
        hourly = trusted.hourly(samples).persist()
        columns = [name for name, _ in trusted.HOURLY]
        by = ["id_device", "hour"]
        self.stage(hourly.select(*columns, "event_date"), HOURLY, by, "event_date", dates)
        columns = [name for name, _ in trusted.DAILY]
        daily = trusted.daily(samples, hourly).select(*columns, "event_date")
        self.stage(daily, DAILY, ["id_device"], "event_date", dates)
        hourly.unpersist()

        # What a run misses is known of all its devices at once.
        runs = judged.select(F.coalesce("marker.run", "run").alias("run")).distinct()
        markers = self.staged(MARKERS, tables.MARKERS).join(F.broadcast(runs), "run", "semi")
        arrived = self.staged(ARRIVALS, tables.ARRIVALS, "sent_date")
        hours = [row.sent_date for row in arrived.select("sent_date").distinct().collect()]
        known = self.stored(ARRIVALS, tables.ARRIVALS, "sent_date")
        arrived = arrived.unionByName(known.where(~F.col("sent_date").isin(hours)))
        arrived = arrived.join(F.broadcast(runs), "run", "semi")
        counted = trusted.completeness(self.spark, arrived, markers)
        known = self.stored(COMPLETENESS, trusted.COMPLETENESS)
        known = known.join(F.broadcast(runs), "run", "anti")
        columns = [name for name, _ in trusted.COMPLETENESS]
        counted = counted.select(*columns).unionByName(known.select(*columns))
        self.stage(counted, COMPLETENESS, ["id_device", "run"])

    def sent_dates(self, judged, bad):
        dates = judged.select("sent_date").union(self.unreadable(bad).select("sent_date"))
        return dates.distinct().collect()

    def unreadable(self, bad):
        found = [(name, f"object unreadable: {why}") for name, why in sorted(bad.items())]
        found = self.spark.createDataFrame(found, "raw_object string, reason string")
        hour = F.regexp_extract("raw_object", rows.SENT, 1)
        found = found.withColumn("timestamp_sent", F.to_timestamp(F.when(hour != "", hour), "yyyy-MM-dd HH"))
        date = F.coalesce(F.to_date("timestamp_sent"), F.lit(rows.NO_DATE)).alias("sent_date")
        have = found.columns
        filled = [
            F.col(name) if name in have else F.lit(None).cast(kind).alias(name)
            for name, kind in tables.QUARANTINE
        ]
        return found.select(*filled, date)

    def stored(self, table, columns, partition=None, dates=None):
        """What a table holds, of these dates or of all."""
        prefixes = [table] if dates is None else [f"{table}/{partition}={date}" for date in dates]
        files = [name for prefix in prefixes for name in self.store.list(prefix)]
        return self.table(table, sorted(files), columns, partition)

    def staged(self, table, columns, partition=None):
        folder = f"{self.staging}/{table}"
        files = [name for name in self.store.list(folder) if name.endswith(".parquet")]
        return self.table(folder, sorted(files), columns, partition)

    def table(self, folder, files, columns, partition):
        columns = [*columns, (partition, "date")] if partition else columns
        if not files:
            return self.spark.createDataFrame([], rows.ddl(columns))
        reader = self.spark.read.schema(rows.ddl(columns)).option("basePath", self.store.path(folder))
        found = reader.parquet(*[self.store.path(name) for name in files])
        return found.select(*[name for name, _ in columns])

    def stage(self, frame, table, order, partition=None, dates=()):
        """Writes the new files of a table, and notes where they belong and which
        others go away. A device's rows of a date are in one file, so that a reader
        sees all the old ones or all the new ones."""
        folder = f"{self.staging}/{table}"
        keys = [partition, "bucket"] if partition else ["bucket"]
        buckets = F.pmod(F.xxhash64("id_device"), F.lit(self.buckets))
        placed = frame.withColumn("bucket", buckets.cast("int") if partition else F.lit(0))
        placed = placed.repartition(*[F.col(key) for key in keys])
        placed = placed.sortWithinPartitions(*keys, *order)
        placed.write.partitionBy(*keys).parquet(self.store.path(folder))

        places = set()
        for name in self.store.list(folder):
            parts = name[len(folder) + 1 :].split("/")
            if not name.endswith(".parquet"):
                continue
            bucket = int(parts[-2].removeprefix("bucket="))
            place = "/".join([table, *parts[:-2], f"part-{bucket:05d}.parquet"])
            assert place not in places, f"two files for {place}"
            places.add(place)
            self.moves.append((name, place))
        prefixes = [f"{table}/{partition}={date}" for date in dates] if partition else [table]
        stored = [name for prefix in prefixes for name in self.store.list(prefix)]
        self.deletes += [name for name in stored if name not in places]
