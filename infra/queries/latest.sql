-- Latest: the newest sample of each device.
--
-- The same text runs on Athena (Trino) and on DuckDB, and completeness.sql says how
-- samples is made. With a condition on timestamp_sent Athena reads less.
--
--   id_device, simulated
--   timestamp             when it was sampled, UTC
--   timestamp_sent        the hour in which it was handed over, far from timestamp
--                         where a device was offline
--   clock                 unsynced: the device did not know the time
--   temperature, cpu, ram, hd
--   backlog_bytes         what waited in the device's spool
--   agent_version
--
-- A sample whose clock was not set is the newest only where its hour of sending has
-- no other.
with
numbered as (
    select
        *,
        row_number() over (
            partition by id_device
            order by
                timestamp_sent desc,
                case when clock = 'unsynced' then 1 else 0 end,
                timestamp desc,
                run desc,
                seq desc
        ) as nth
    from samples
    where seq is not null
)
select
    id_device,
    simulated,
    timestamp,
    timestamp_sent,
    clock,
    temperature,
    cpu,
    ram,
    hd,
    backlog_bytes,
    agent_version
from numbered
where nth = 1
order by id_device
