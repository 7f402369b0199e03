-- Hottest: devices by their warmth in the day before the newest sample.
--
-- The same text runs on Athena (Trino) and on DuckDB, and completeness.sql says how
-- samples is made. With a condition on timestamp_sent Athena reads less.
--
--   id_device, simulated
--   samples               of this day, those with a temperature
--   mean_celsius, max_celsius
--   hot_share             share of them at 80 degrees or more, where a Raspberry Pi
--                         begins to slow down
--   throttled_share       share of all of the day in which the firmware said that it
--                         slows down at that moment, null where no firmware says it
--
-- A sample is counted once, however often it was delivered. Samples of a clock that
-- was not set count where it may be right all the same.
with
dated as (
    select distinct
        id_device,
        run,
        seq,
        simulated,
        temperature,
        throttled,
        cast(concat(substr(timestamp, 1, 10), ' ', substr(timestamp, 12, 12)) as timestamp) as taken
    from samples
    where seq is not null and (
        clock <> 'unsynced'
        or (timestamp >= '2020' and concat(substr(timestamp, 1, 10), ' ', substr(timestamp, 12, 2)) <= timestamp_sent)
    )
),
newest as (
    select max(taken) as taken from dated
)
select
    id_device,
    simulated,
    count(temperature) as samples,
    avg(temperature) as mean_celsius,
    max(temperature) as max_celsius,
    avg(case when temperature >= 80 then 1e0 when temperature < 80 then 0e0 end) as hot_share,
    -- Bit 2: throttled at this moment.
    avg(case when mod(throttled, 8) >= 4 then 1e0 when throttled is not null then 0e0 end)
        as throttled_share
from dated
cross join newest
where dated.taken > newest.taken - interval '1' day
group by id_device, simulated
having count(temperature) > 0
order by max_celsius desc, mean_celsius desc, id_device
