-- Silent: devices of which nothing has been heard for a quarter of an hour.
--
-- The same text runs on Athena (Trino) and on DuckDB, and completeness.sql says how
-- samples is made. Firehose delivers minutes later, up to 1.5 times its buffer. For
-- buffers above 10 minutes, put a longer time below.
--
--   id_device, simulated
--   last_seen             when its newest sample was taken, UTC, or where it cannot
--                         have known the time, the hour in which it was handed over
--   silent_minutes        since then, by the clock of whoever asks
--   stopped               its newest run ended by a clean stop: somebody turned it off
--   backlog_bytes         what waited in its spool when it was last seen
with
ended as (
    select distinct marker.run as run
    from samples
    where marker.kind = 'run_end' and marker.reason = 'clean'
),
dated as (
    select
        id_device,
        simulated,
        run,
        seq,
        backlog_bytes,
        case
            when clock <> 'unsynced'
                or (timestamp >= '2020' and concat(substr(timestamp, 1, 10), ' ', substr(timestamp, 12, 2)) <= timestamp_sent)
                then cast(concat(substr(timestamp, 1, 10), ' ', substr(timestamp, 12, 12)) as timestamp)
            else cast(concat(timestamp_sent, ':00:00.000') as timestamp)
        end as taken
    from samples
    where seq is not null
),
numbered as (
    select
        dated.*,
        row_number() over (partition by id_device order by taken desc, run desc, seq desc) as nth
    from dated
),
aged as (
    select
        numbered.*,
        date_diff('second', taken, cast(current_timestamp at time zone 'UTC' as timestamp)) / 60e0
            as silent_minutes
    from numbered
    where nth = 1
)
select
    aged.id_device,
    aged.simulated,
    aged.taken as last_seen,
    aged.silent_minutes,
    ended.run is not null as stopped,
    aged.backlog_bytes
from aged
left join ended on ended.run = aged.run
where aged.silent_minutes >= 15
order by aged.silent_minutes desc, aged.id_device
