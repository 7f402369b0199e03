"""Raw rows: how they are read, and what is wrong with one."""

import datetime
import json
import pathlib

from pyspark.sql import functions as F

# What a reading can be. The agent takes the same temperatures for plausible.
RANGES = {
    "temperature": (-40.0, 150.0),
    "cpu": (0.0, 1.0),
    "ram": (0.0, 1.0),
    "hd": (0.0, 1.0),
    "swap": (0.0, 1.0),
    "uptime_s": (0, None),
    "load1": (0.0, None),
    "rx_bytes": (0, None),
    "tx_bytes": (0, None),
}

# No sample is older than the agent.
EPOCH = "2020-01-01"
RFC3339 = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$"
NO_DATE = datetime.date(1970, 1, 1)
SENT = r"data/timestamp_sent=(\d{4}-\d\d-\d\d \d\d)/"


def columns(path):
    """The columns of infra/schema/sample.json but for the partition."""
    found = json.loads(pathlib.Path(path).read_text())["columns"]
    return [(column["name"], column["type"]) for column in found if not column.get("partition")]


def ddl(columns):
    return ", ".join(f"`{name}` {kind}" for name, kind in columns)


def read(spark, columns, paths):
    """The rows of these raw files, with the object and the hour that each is of."""
    rows = spark.read.schema(ddl(columns)).parquet(*paths)
    path = F.regexp_replace(F.col("_metadata.file_path"), "%20", " ")
    rows = rows.withColumn("raw_object", F.regexp_extract(path, "(data/[^/]*=.*)$", 1))
    hour = F.regexp_extract("raw_object", SENT, 1)
    sent = F.to_timestamp(F.when(hour != "", hour), "yyyy-MM-dd HH")
    rows = rows.withColumn("timestamp_sent", sent)
    return rows.withColumn("sent_date", F.coalesce(F.to_date("timestamp_sent"), F.lit(NO_DATE)))


def readable(spark, columns, held):
    """The objects whose every row can be read, and of the others why not.

    A schema that differs shows only when the values are read."""
    def fails(names):
        try:
            rows = spark.read.schema(ddl(columns)).parquet(*[path for _, path in names])
            rows.write.format("noop").mode("overwrite").save()
        except Exception as error:  # Whatever Spark and Parquet have for it.
            return reason(error)
        return None

    good, bad, waiting = [], {}, [sorted(held.items())]
    while waiting:
        names = waiting.pop()
        why = fails(names) if names else None
        if why is None:
            good += [name for name, _ in names]
        elif len(names) == 1:
            bad[names[0][0]] = why
        else:
            half = len(names) // 2
            waiting += [names[:half], names[half:]]
    return sorted(good), bad


def reason(error):
    """The innermost of Java's causes, in one line."""
    lines = [line for line in str(error).splitlines() if "Caused by: " in line]
    text = lines[-1].split("Caused by: ", 1)[1] if lines else str(error).splitlines()[0]
    return text[:200]


def judge(rows):
    """With `kind`, `reason` (null where nothing is wrong), `at`, `time_basis` and
    `event_date`."""
    members = ["kind", "run", "first_seq", "last_seq", "kept", "reason"]
    said = F.coalesce(*[F.col(f"marker.{member}").cast("string") for member in members])
    rows = rows.withColumn("kind", F.when(said.isNull(), "sample").otherwise("marker"))
    text = F.col("timestamp")
    rows = rows.withColumn("at", F.when(text.rlike(RFC3339), text.cast("timestamp")))
    rows = dated(rows)
    reasons = F.when(F.col("kind") == "sample", F.concat_ws(", ", *sample_reasons()))
    reasons = reasons.otherwise(F.concat_ws(", ", *marker_reasons()))
    rows = rows.withColumn("reason", F.when(reasons != "", reasons))
    simulated = F.coalesce("simulated", F.col("id_device").startswith("sim-"), F.lit(False))
    return rows.withColumn("simulated", simulated)


def dated(rows):
    """A clock that was never set says nothing of the day: the hour of sending does."""
    sent = F.col("timestamp_sent")
    unset = F.col("clock").eqNullSafe("unsynced")
    # A clock that was set may still be ahead of the one that told the hour.
    ahead = F.when(unset, F.expr("interval 1 hour")).otherwise(F.expr("interval 25 hours"))
    plausible = F.col("at") >= F.lit(EPOCH).cast("timestamp")
    plausible &= sent.isNull() | (F.col("at") < sent + ahead)
    basis = F.when(~unset & plausible, "clock").when(unset & plausible, "unsynced")
    basis = basis.when(unset & F.col("at").isNotNull() & sent.isNotNull(), "sent")
    rows = rows.withColumn("time_basis", basis)
    date = F.when(F.col("time_basis") == "sent", F.to_date(sent)).otherwise(F.to_date("at"))
    return rows.withColumn("event_date", date)


def when(condition, reason):
    """Null counts as not."""
    return F.when(F.coalesce(condition, F.lit(False)), reason)


def identity_reasons(run, seq):
    missing = F.col("id_device").isNull() | (F.col("id_device") == "") | run.isNull() | seq.isNull()
    invalid = ~F.col("id_device").rlike("^[A-Za-z0-9._-]{1,64}$")
    invalid |= ~run.between(0, 2**53 - 1) | (seq < 0)
    return [when(missing, "identity missing"), when(~missing & invalid, "identity invalid")]


def time_reasons():
    return [
        when(F.col("at").isNull(), "timestamp unparsable"),
        when(F.col("at").isNotNull() & F.col("time_basis").isNull(), "timestamp out of range"),
    ]


def sample_reasons():
    reasons = identity_reasons(F.col("run"), F.col("seq")) + time_reasons()
    for name, (low, high) in RANGES.items():
        value = F.col(name)
        # NaN is greater than every number.
        wrong = (value < low) | value.cast("double").isin(float("nan"), float("inf"))
        wrong = wrong | (value > high) if high is not None else wrong
        reasons.append(when(wrong, f"{name} out of range"))
    return reasons


def marker_reasons():
    first, last = F.col("marker.first_seq"), F.col("marker.last_seq")
    kind, kept = F.col("marker.kind"), F.col("marker.kept")
    gap = F.coalesce(kind == "gap", F.lit(False))
    whole = first.between(0, last) & kept.between(0, last - first + 1)
    whole = F.when(gap, whole).otherwise((kind == "run_end") & (last >= 0))
    whole &= F.col("marker.reason").isNotNull() & F.col("seq").isNull()
    seq = F.coalesce(last, F.lit(0))
    # When it was said does not matter: a device may not have known.
    return [
        *identity_reasons(F.col("marker.run"), seq),
        F.when(~F.coalesce(whole, F.lit(False)), "marker malformed"),
    ]
