-- Disk full: when each device's disk will be, if it fills as in the last week.
--
-- The same text runs on Athena (Trino) and on DuckDB, and completeness.sql says how
-- samples is made. With a condition on timestamp_sent Athena reads less.
--
--   id_device, simulated
--   samples               of the week before the device's newest sample
--   days                  how much of this week they span
--   hd                    0..1, the newest used share of the file system of sample.disk
--   growth_a_day          slope of the straight line that fits them best
--   days_left             from the newest sample until this line reaches 1, null where
--                         the disk does not fill
--
-- A line through less than a day says little. Samples of a clock that was not set
-- count where it may be right all the same.
with
dated as (
    select distinct
        id_device,
        run,
        seq,
        simulated,
        hd,
        cast(concat(substr(timestamp, 1, 10), ' ', substr(timestamp, 12, 12)) as timestamp) as taken
    from samples
    where seq is not null and hd is not null and (
        clock <> 'unsynced'
        or (timestamp >= '2020' and concat(substr(timestamp, 1, 10), ' ', substr(timestamp, 12, 2)) <= timestamp_sent)
    )
),
aged as (
    select
        id_device,
        simulated,
        hd,
        run,
        seq,
        -- Days before the newest, so that the line's height at 0 is that of today.
        -date_diff('millisecond', taken, max(taken) over (partition by id_device)) / 86400000e0 as day
    from dated
),
week as (
    select
        aged.*,
        row_number() over (partition by id_device order by day desc, run desc, seq desc) as nth
    from aged
    where day > -7
),
fitted as (
    select
        id_device,
        simulated,
        count(*) as samples,
        -min(day) as days,
        max(case when nth = 1 then hd end) as hd,
        regr_slope(hd, day) as slope,
        regr_intercept(hd, day) as height
    from week
    group by id_device, simulated
)
select
    id_device,
    simulated,
    samples,
    days,
    hd,
    slope as growth_a_day,
    case when slope > 0 then greatest((1 - height) / slope, 0e0) end as days_left
from fitted
order by case when slope > 0 then 0 else 1 end, days_left, id_device
