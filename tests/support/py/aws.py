"""Asks the AWS stand-in for what a test needs.

usage: aws.py create ENDPOINT SCHEMA STREAM BUCKET
       aws.py fetch ENDPOINT BUCKET FOLDER
       aws.py athena ENDPOINT BUCKET SQL

`create` makes the bucket, the Glue table of the schema file and a Firehose
stream as infra/ would: de-aggregation, partitions by `timestamp_sent`, Parquet
by the table's columns. `fetch` copies every object of the bucket into FOLDER.
`athena` prints the rows of SQL over that table, one JSON object of texts a line.
"""

import json
import pathlib
import sys
import time

import botocore.session

DATABASE, TABLE = "iot", "raw"
ACCOUNT, REGION = "000000000000", "eu-west-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/firehose"


def client(service, endpoint):
    return botocore.session.get_session().create_client(
        service,
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def create(endpoint, schema, stream, bucket):
    columns = [
        {"Name": column["name"], "Type": column["type"]}
        for column in json.loads(pathlib.Path(schema).read_text())["columns"]
        if not column.get("partition")
    ]
    client("s3", endpoint).create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    glue = client("glue", endpoint)
    glue.create_database(DatabaseInput={"Name": DATABASE})
    glue.create_table(
        DatabaseName=DATABASE,
        TableInput={
            "Name": TABLE,
            "PartitionKeys": [{"Name": "timestamp_sent", "Type": "string"}],
            "StorageDescriptor": {
                "Columns": columns,
                "Location": f"s3://{bucket}/data/",
                "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
            },
        },
    )
    client("firehose", endpoint).create_delivery_stream(
        DeliveryStreamName=stream,
        DeliveryStreamType="DirectPut",
        ExtendedS3DestinationConfiguration=destination(bucket),
    )


def destination(bucket):
    return {
        "RoleARN": ROLE,
        "BucketARN": f"arn:aws:s3:::{bucket}",
        "Prefix": "data/timestamp_sent=!{partitionKeyFromQuery:timestamp_sent}/",
        "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/",
        "BufferingHints": {"SizeInMBs": 64, "IntervalInSeconds": 60},
        "DynamicPartitioningConfiguration": {"Enabled": True},
        "ProcessingConfiguration": {
            "Enabled": True,
            "Processors": [
                processor("RecordDeAggregation", SubRecordType="JSON"),
                processor(
                    "MetadataExtraction",
                    MetadataExtractionQuery="{timestamp_sent:.timestamp_sent}",
                    JsonParsingEngine="JQ-1.6",
                ),
            ],
        },
        "DataFormatConversionConfiguration": {
            "Enabled": True,
            "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}},
            "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {}}},
            "SchemaConfiguration": {
                "RoleARN": ROLE,
                "DatabaseName": DATABASE,
                "TableName": TABLE,
                "Region": REGION,
            },
        },
    }


def processor(kind, **parameters):
    return {
        "Type": kind,
        "Parameters": [
            {"ParameterName": name, "ParameterValue": value} for name, value in parameters.items()
        ],
    }


def fetch(endpoint, bucket, folder):
    s3 = client("s3", endpoint)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            path = pathlib.Path(folder, entry["Key"])
            if path.exists():  # Firehose never writes an object twice.
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read())


def athena(endpoint, bucket, sql):
    client_ = client("athena", endpoint)
    query = client_.start_query_execution(
        QueryString=sql,
        QueryExecutionContext={"Database": DATABASE},
        ResultConfiguration={"OutputLocation": f"s3://{bucket}/athena-results/"},
    )["QueryExecutionId"]
    deadline = time.monotonic() + 60
    while True:
        status = client_.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"]
        if status["State"] not in ("QUEUED", "RUNNING"):
            break
        if time.monotonic() > deadline:
            sys.exit(f"Athena has no answer after a minute: {status}")
        time.sleep(0.05)
    if status["State"] != "SUCCEEDED":
        sys.exit(f"Athena: {status}")
    pages = client_.get_paginator("get_query_results").paginate(QueryExecutionId=query)
    rows = [row["Data"] for page in pages for row in page["ResultSet"]["Rows"]]
    names = [cell["VarCharValue"] for cell in rows[0]]
    for row in rows[1:]:
        print(json.dumps(dict(zip(names, [cell.get("VarCharValue") for cell in row]))))


if __name__ == "__main__":
    {"create": create, "fetch": fetch, "athena": athena}[sys.argv[1]](*sys.argv[2:])
