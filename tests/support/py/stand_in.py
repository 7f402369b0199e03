"""ministack, with the one Firehose feature it lacks: de-aggregation.

Where a stream has the processor `RecordDeAggregation`, a record of several JSON
lines is parted by its partition keys before it is delivered, as AWS does. A
line without keys goes to the errors alone, a record of too many lines whole.
"""

from ministack.app import main
from ministack.services import firehose

MAX_SUB_RECORDS = 500  # AWS, "Dynamic partitioning": aggregated data.

deliver = firehose._deliver_to_s3
extract = firehose._metadata_extraction_keys


def deliver_parted(stream, dest, record, lambda_keys=None):
    config = dest["config"]
    processors = (config.get("ProcessingConfiguration") or {}).get("Processors") or []
    if not any(each.get("Type") == "RecordDeAggregation" for each in processors):
        return deliver(stream, dest, record, lambda_keys)
    lines = record.splitlines(keepends=True)
    if len(lines) > MAX_SUB_RECORDS:
        return deliver(stream, dest, record, lambda_keys)
    parts = {}
    for line in lines:
        parts.setdefault(part_of(config, line), []).append(line)
    for part in parts.values():
        deliver(stream, dest, b"".join(part), lambda_keys)


def part_of(config, line):
    try:
        return str(extract(config, line))
    except firehose._DeliveryError:
        return line


def extract_of_part(config, part):
    lines = part.splitlines()
    if len(lines) > MAX_SUB_RECORDS:
        raise firehose._DeliveryError("processing-failed", f"{len(lines)} sub-records")
    return extract(config, lines[0] if lines else part)


firehose._deliver_to_s3 = deliver_parted
firehose._metadata_extraction_keys = extract_of_part

if __name__ == "__main__":
    main()
