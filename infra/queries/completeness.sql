-- Completeness: which samples of each device and run are here, and which are not.
--
-- The same text runs on Athena (Trino) and on DuckDB, over a table or view named
-- samples. On Athena that is the table of infra/schema/sample.json. On DuckDB:
--
--   create view samples as
--   from read_parquet('LAKE/data/*/*.parquet', union_by_name = true,
--       hive_partitioning = true, hive_types = {'timestamp_sent': varchar})
--
-- Every run must be read from its beginning: a condition on timestamp_sent that
-- cuts a run makes the rest of it missing.
--
--   open          no run_end has arrived: the run goes on, or nothing is known of its
--                 end. What it seems to miss may still be on its way
--   reason        of run_end: clean, or crash, beyond which up to spool.max_loss is lost
--   last_seq      seqs 0 to here are accounted for: run_end says so, and where the run
--                 is open, it is the highest seq present
--   present       distinct seqs that are here
--   duplicated    rows beyond the first of a seq
--   declared      seqs that are not here and lie in a gap marker (evicted, thinned,
--                 damaged, dropped from memory), each counted once
--   missing       seqs of 0..last_seq that are neither here nor declared. It must be 0
--                 once the spool has run empty. A record that the service refused for
--                 good counts too: iot-agent spool dead-letters
--   before_first  those of the missing ones that lie below the lowest seq present. Where
--                 the oldest files are deleted, by sink.lake.max_bytes or by a rule of
--                 the bucket, these have expired: iot-agent verify-lake tells the two
--                 apart, for a local lake says up to which hour it deleted files
--   beyond_end    seqs above run_end that are here all the same, saved from a crash
--
-- run_end speaks for all devices of its run and is a row of the first of them. A
-- device of which neither a sample nor a gap is here is not in the answer, unless
-- it is that one. Within a thinned gap a kept sample that is lost cannot be told
-- from one that thinning dropped.
--
-- Ranges are walked in the order of their seqs, each from where those before it
-- end, so the cost is that of sorting the rows once, however wide the gaps are.
with
ends as (
    select
        marker.run as run,
        max(marker.last_seq) as last_seq,
        -- A clean stop knows more than the start that followed a crash of a copy.
        min(marker.reason) as reason
    from samples
    where marker.kind = 'run_end'
    group by marker.run
),
ranges as (
    select id_device, run, seq as first_seq, seq as last_seq, count(*) as copies
    from samples
    where seq is not null
    group by id_device, run, seq
    union all
    select id_device, marker.run, marker.first_seq, marker.last_seq, 0
    from samples
    where marker.kind = 'gap'
    union all
    -- A device of which nothing else may be here: an empty range.
    select id_device, marker.run, 0, -1, 0
    from samples
    where marker.kind = 'run_end'
),
walked as (
    select
        id_device,
        run,
        last_seq,
        copies,
        -- The first seq that no range before this one has.
        greatest(first_seq, 1 + coalesce(max(last_seq) over (
            partition by id_device, run order by first_seq, last_seq, copies
            rows between unbounded preceding and 1 preceding
        ), -1)) as new_from,
        min(case when copies > 0 then first_seq end) over (partition by id_device, run) as lowest,
        max(case when copies > 0 then last_seq end) over (partition by id_device, run) as highest
    from ranges
),
bounded as (
    select
        walked.*,
        ends.last_seq as end_seq,
        ends.reason as reason,
        coalesce(ends.last_seq, highest, -1) as upto,
        least(coalesce(lowest, coalesce(ends.last_seq, -1) + 1), coalesce(ends.last_seq, highest, -1) + 1)
            as head
    from walked
    left join ends on ends.run = walked.run
)
select
    id_device,
    run,
    end_seq is null as open,
    reason,
    upto as last_seq,
    sum(least(copies, 1)) as present,
    sum(greatest(copies - 1, 0)) as duplicated,
    sum(greatest(last_seq - new_from + 1, 0)) - sum(least(copies, 1)) as declared,
    upto + 1 - sum(greatest(least(last_seq, upto) - new_from + 1, 0)) as missing,
    head - sum(greatest(least(last_seq, head - 1) - new_from + 1, 0)) as before_first,
    sum(case when copies > 0 and last_seq > end_seq then 1 else 0 end) as beyond_end
from bounded
group by id_device, run, end_seq, reason, upto, head
order by id_device, run
