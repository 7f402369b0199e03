"""What people ask for: hours, days, and whether all is there."""

from pyspark.sql import Window
from pyspark.sql import functions as F

from layers_tables import columns

READINGS = ["temperature", "cpu", "ram", "hd"]

# A device that samples more seldom than this is looked for in longer slots.
SLOT_MINUTES = [1, 5, 15, 60]

HOURLY, DAILY, COMPLETENESS = (columns(table) for table in ("hourly", "daily", "completeness"))


def figures():
    for reading in READINGS:
        # Decimals add up to the same in whatever order they come.
        exact = F.col(reading).cast("decimal(28, 12)")
        yield F.min(reading).alias(f"{reading}_min")
        yield F.avg(exact).cast("double").alias(f"{reading}_mean")
        yield F.max(reading).alias(f"{reading}_max")
        yield F.percentile(reading, F.lit(0.95)).alias(f"{reading}_p95")


def counts():
    yield F.max("simulated").alias("simulated")
    yield F.count("*").alias("samples")
    yield F.count(F.when(F.col("time_basis") == "unsynced", 1)).alias("unsynced")


def slots(dated):
    """How long a device's slot of a day is, in minutes: the shortest that holds two
    samples of its usual interval. One that was seen once has the shortest."""
    before = F.lag("timestamp").over(
        Window.partitionBy("event_date", "id_device", "run").orderBy("timestamp", "seq")
    )
    step = F.col("timestamp").cast("double") - before.cast("double")
    steps = dated.select("event_date", "id_device", step.alias("step")).groupBy("event_date", "id_device")
    usual = F.percentile("step", F.lit(0.5))
    slot = F.lit(SLOT_MINUTES[-1])
    for minutes in reversed(SLOT_MINUTES):
        slot = F.when(F.coalesce(usual, F.lit(0.0)) * 2 <= minutes * 60, minutes).otherwise(slot)
    return steps.agg(slot.alias("slot"))


def hourly(samples):
    dated = samples.where("time_basis <> 'sent'")
    rows = dated.join(slots(dated), ["event_date", "id_device"])
    minute = F.minute("timestamp")
    seen = F.count_distinct(F.floor(minute / F.col("slot"))) * F.max("slot") / 60.0
    hour = F.date_trunc("hour", "timestamp").alias("hour")
    groups = rows.groupBy("event_date", "id_device", hour)
    return groups.agg(*counts(), *figures(), seen.alias("availability"))


def daily(samples, hourly):
    of = ["event_date", "id_device"]
    dated = samples.where("time_basis <> 'sent'").groupBy(*of).agg(*counts(), *figures())
    undated = samples.where("time_basis = 'sent'").groupBy(*of)
    undated = undated.agg(F.count("*").alias("undated"), F.max("simulated").alias("said"))
    share = F.sum(F.col("availability").cast("decimal(28, 12)")).cast("double") / 24
    hours = hourly.groupBy(*of).agg(F.count("*").alias("hours_seen"), share.alias("availability"))
    rows = dated.join(undated, of, "full").join(hours, of, "left")
    rows = rows.withColumn("simulated", F.coalesce("simulated", "said")).drop("said")
    return rows.fillna(0, ["samples", "unsynced", "undated", "hours_seen", "availability"])


def completeness(spark, arrivals, markers):
    """The figures of infra/queries/completeness.sql, from stretches of seqs."""
    arrivals.createOrReplaceTempView("arrivals")
    markers.createOrReplaceTempView("markers")
    return spark.sql(COMPLETENESS_SQL)


# As there, ranges are walked in the order of their seqs, each from where those
# before it end: once for the samples, to count each of them once, and once with
# what is declared.
COMPLETENESS_SQL = """
with
ends as (
    select run, max(last_seq) as last_seq, min(reason) as reason
    from markers where kind = 'run_end' group by run
),
found as (
    select id_device, run, last_seq, greatest(first_seq, 1 + coalesce(max(last_seq) over (
        partition by id_device, run order by first_seq, last_seq
        rows between unbounded preceding and 1 preceding
    ), -1)) as first_seq
    from arrivals
),
arrived as (
    select id_device, run, sum((last_seq - first_seq + 1) * copies) as rows
    from arrivals group by id_device, run
),
ranges as (
    select id_device, run, first_seq, last_seq, 1 as here from found where first_seq <= last_seq
    union all
    select id_device, run, first_seq, last_seq, 0 from markers where kind = 'gap'
    union all
    select id_device, run, 0, -1, 0 from markers where kind = 'run_end'
),
walked as (
    select
        id_device, run, first_seq, last_seq, here,
        greatest(first_seq, 1 + coalesce(max(last_seq) over (
            partition by id_device, run order by first_seq, last_seq, here
            rows between unbounded preceding and 1 preceding
        ), -1)) as new_from,
        min(case when here = 1 then first_seq end) over (partition by id_device, run) as lowest,
        max(case when here = 1 then last_seq end) over (partition by id_device, run) as highest
    from ranges
),
bounded as (
    select
        walked.*, ends.last_seq as end_seq, ends.reason,
        coalesce(ends.last_seq, highest, -1) as upto,
        least(coalesce(lowest, coalesce(ends.last_seq, -1) + 1),
              coalesce(ends.last_seq, highest, -1) + 1) as head
    from walked left join ends on ends.run = walked.run
),
counted as (
    select
        id_device, run, end_seq is null as open, reason, upto as last_seq,
        sum(here * (last_seq - first_seq + 1)) as present,
        sum(greatest(last_seq - new_from + 1, 0)) as told,
        upto + 1 - sum(greatest(least(last_seq, upto) - new_from + 1, 0)) as missing,
        head - sum(greatest(least(last_seq, head - 1) - new_from + 1, 0)) as before_first,
        sum(case when here = 1 and last_seq > end_seq
            then last_seq - greatest(first_seq, end_seq + 1) + 1 else 0 end) as beyond_end
    from bounded group by id_device, run, end_seq, reason, upto, head
)
select
    counted.id_device, counted.run, open, reason, last_seq, present,
    coalesce(arrived.rows, 0) - present as duplicated,
    told - present as declared, missing, before_first, beyond_end
from counted left join arrived on arrived.id_device = counted.id_device and arrived.run = counted.run
"""
