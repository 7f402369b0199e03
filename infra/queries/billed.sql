-- Billed: about how many bytes Firehose bills for each day of sending.
--
-- The same text runs on Athena (Trino) and on DuckDB, and completeness.sql says how
-- samples is made. With a condition on timestamp_sent Athena reads less.
--
--   day            of timestamp_sent, UTC
--   lines          samples and markers, duplicates included: they were sent as well
--   bytes          of their JSON lines, worked out from the columns, within a few in a
--                  hundred: of fractions the usual length is taken
--   billed         the least that can have been billed: each record is rounded up to
--                  5 KiB, and the agent fills its records, so that of each run and hour
--                  one is not full. An agent that has little to send in send.interval
--                  pays more
--   billed_singly  what the same rows cost with each of them as a record of its own
with
parts as (
    select
        timestamp_sent,
        run,
        marker.run as said_of,
        -- Of each column its name, two quotes, a colon, a comma, and the value. Of
        -- strings two quotes more. The last is what holds lists, the line's end, and
        -- a marker as a whole.
        15 + length(id_device) + 39 + 33
        + coalesce(7 + length(cast(run as varchar)) + 7 + length(cast(seq as varchar)), 0)
        + coalesce(11 + length(clock), 0)
        + case when temperature is not null then 19 else 0 end
        + case when cpu is not null then 13 else 0 end
        + case when ram is not null then 13 else 0 end
        + case when hd is not null then 12 else 0 end
        + case when load1 is not null then 13 else 0 end
        + case when swap is not null then 12 else 0 end
        + case when simulated then 17 else 18 end
        + coalesce(12 + length(cast(uptime_s as varchar)), 0)
        + coalesce(12 + length(cast(rx_bytes as varchar)), 0)
        + coalesce(12 + length(cast(tx_bytes as varchar)), 0)
        + coalesce(13 + length(cast(throttled as varchar)), 0)
        + coalesce(17 + length(cast(backlog_bytes as varchar)), 0)
        + coalesce(17 + length(cast(backlog_age_s as varchar)), 0)
        + coalesce(19 + length(agent_version), 0)
        + case when cardinality(labels) > 0 then 12 else 0 end
        + case when seq is null then 82 else 24 end as bytes,
        1 as lines
    from samples
    union all
    select
        timestamp_sent,
        run,
        null,
        81 + length(t.mount) + length(t.fs) + length(cast(t.total_bytes as varchar))
        + coalesce(length(cast(t.read_bytes as varchar)), 0)
        + coalesce(length(cast(t.written_bytes as varchar)), 0),
        0
    from samples
    cross join unnest(disks) as t
    union all
    select timestamp_sent, run, null, 28 + length(t.label), 0
    from samples
    cross join unnest(sensors) as t
    union all
    select timestamp_sent, run, null, 6 + length(t.name) + length(element_at(labels, t.name)), 0
    from samples
    cross join unnest(map_keys(labels)) as t(name)
),
hours as (
    select
        timestamp_sent,
        coalesce(run, said_of) as run,
        sum(lines) as lines,
        sum(bytes) as bytes
    from parts
    group by timestamp_sent, coalesce(run, said_of)
)
select
    substr(timestamp_sent, 1, 10) as day,
    sum(lines) as lines,
    sum(bytes) as bytes,
    sum(5120 * cast(ceil(bytes / 5120e0) as bigint)) as billed,
    5120 * sum(lines) as billed_singly
from hours
group by substr(timestamp_sent, 1, 10)
order by day
