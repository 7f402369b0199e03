"""Asks the AWS stand-in for what a test needs.

usage: aws.py create ENDPOINT SCHEMA STREAM BUCKET
       aws.py apply ENDPOINT PLAN
       aws.py device ENDPOINT POLICY
       aws.py allowed ENDPOINT STREAM OTHER BUCKET KEY SECRET
       aws.py put ENDPOINT STREAM TEXT
       aws.py fetch ENDPOINT BUCKET FOLDER
       aws.py athena ENDPOINT BUCKET SQL [DATABASE]

`create` makes the bucket, the Glue table of the schema file and a Firehose
stream as infra/ would: de-aggregation, partitions by `timestamp_sent`, Parquet
by the table's columns. `apply` makes the same of a Terraform plan of an example,
which the file PLAN holds as JSON, with all its tables and objects. `device` makes a user with a policy and prints its key and secret.
`allowed` tries with these what a device may do and what it may not, and prints what
was allowed, a line each. `put` sends a record of TEXT. `fetch` copies every object of the bucket into FOLDER.
`athena` prints the rows of SQL over that table, one JSON object of texts a line.
"""

import json
import pathlib
import sys
import time

import botocore.exceptions
import botocore.session

DATABASE, TABLE = "iot", "raw"
# What the paths of a plan start from.
EXAMPLE = pathlib.Path(__file__).parents[3] / "infra/examples/minimal"
ACCOUNT, REGION = "000000000000", "eu-west-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/firehose"


def client(service, endpoint, key="test", secret="test"):
    return botocore.session.get_session().create_client(
        service,
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


def create(endpoint, schema, stream, bucket):
    all_columns = json.loads(pathlib.Path(schema).read_text())["columns"]
    table = {
        "Name": TABLE,
        "PartitionKeys": [{"Name": "timestamp_sent", "Type": "string"}],
        "StorageDescriptor": {
            "Columns": columns(each for each in all_columns if not each.get("partition")),
            "Location": f"s3://{bucket}/data/",
            "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
        },
    }
    make(endpoint, bucket, DATABASE, [table], stream, destination(bucket))


def make_bucket(endpoint, bucket):
    client("s3", endpoint).create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )


def make(endpoint, bucket, database, tables, stream, config):
    make_bucket(endpoint, bucket)
    glue = client("glue", endpoint)
    glue.create_database(DatabaseInput={"Name": database})
    for table in tables:
        glue.create_table(DatabaseName=database, TableInput=table)
    client("firehose", endpoint).create_delivery_stream(
        DeliveryStreamName=stream,
        DeliveryStreamType="DirectPut",
        ExtendedS3DestinationConfiguration=config,
    )


def apply(endpoint, plan):
    def resources(module):
        yield from module.get("resources", [])
        for child in module.get("child_modules", []):
            yield from resources(child)

    planned = json.loads(pathlib.Path(plan).read_text())["planned_values"]["root_module"]

    def all_of(kind):
        return [each["values"] for each in resources(planned) if each["type"] == kind]

    (stream,), (bucket,) = all_of("aws_kinesis_firehose_delivery_stream"), all_of("aws_s3_bucket")
    (database,), tables = all_of("aws_glue_catalog_database"), all_of("aws_glue_catalog_table")
    config = planned_destination(stream["extended_s3_configuration"][0])
    tables = [planned_table(table) for table in tables]
    make(endpoint, bucket["bucket"], database["name"], tables, stream["name"], config)
    for each in all_of("aws_s3_object"):
        body = (EXAMPLE / each["source"]).read_bytes()
        client("s3", endpoint).put_object(Bucket=each["bucket"], Key=each["key"], Body=body)


def planned_table(table):
    storage = table["storage_descriptor"][0]
    return {
        "Name": table["name"],
        "PartitionKeys": columns(table["partition_keys"]),
        "Parameters": table["parameters"],
        "StorageDescriptor": {
            "Columns": columns(storage["columns"]),
            "Location": storage["location"],
            "InputFormat": storage["input_format"],
        },
    }


def columns(named):
    return [{"Name": column["name"], "Type": column["type"]} for column in named]


def planned_destination(config):
    # A role's ARN is known only once it is there.
    conversion = config["data_format_conversion_configuration"][0]
    schema = conversion["schema_configuration"][0]
    formats = conversion["input_format_configuration"][0]["deserializer"][0]
    assert formats["open_x_json_ser_de"] and not formats["hive_json_ser_de"]
    partitioning = config["dynamic_partitioning_configuration"]
    processing = config["processing_configuration"]
    processors = [each for block in processing for each in block["processors"]]
    return {
        "RoleARN": ROLE,
        "BucketARN": config["bucket_arn"],
        "Prefix": config["prefix"],
        "ErrorOutputPrefix": config["error_output_prefix"],
        "BufferingHints": {
            "SizeInMBs": config["buffering_size"],
            "IntervalInSeconds": config["buffering_interval"],
        },
        "CompressionFormat": config["compression_format"],
        "DynamicPartitioningConfiguration": {
            "Enabled": any(block["enabled"] for block in partitioning)
        },
        "ProcessingConfiguration": {
            "Enabled": any(block["enabled"] for block in processing),
            "Processors": [
                processor(
                    each["type"],
                    **{p["parameter_name"]: p["parameter_value"] for p in each["parameters"]},
                )
                for each in processors
            ],
        },
        "DataFormatConversionConfiguration": {
            "Enabled": conversion["enabled"],
            "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}},
            "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {}}},
            "SchemaConfiguration": {
                "RoleARN": ROLE,
                "DatabaseName": schema["database_name"],
                "TableName": schema["table_name"],
                "Region": REGION,
            },
        },
    }


def device(endpoint, policy):
    iam = client("iam", endpoint)
    iam.create_user(UserName="device")
    iam.put_user_policy(UserName="device", PolicyName="deliver", PolicyDocument=policy)
    key = iam.create_access_key(UserName="device")["AccessKey"]
    print(json.dumps({"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}))


def allowed(endpoint, stream, other, bucket, key, secret):
    def firehose():
        return client("firehose", endpoint, key, secret)

    record = {"Data": b"{}"}
    tries = {
        "describe": lambda: firehose().describe_delivery_stream(DeliveryStreamName=stream),
        "put batch": lambda: firehose().put_record_batch(
            DeliveryStreamName=stream, Records=[record]
        ),
        "put batch elsewhere": lambda: firehose().put_record_batch(
            DeliveryStreamName=other, Records=[record]
        ),
        "put one": lambda: firehose().put_record(DeliveryStreamName=stream, Record=record),
        "delete": lambda: firehose().delete_delivery_stream(DeliveryStreamName=other),
        "list objects": lambda: client("s3", endpoint, key, secret).list_objects_v2(Bucket=bucket),
        "read tables": lambda: client("glue", endpoint, key, secret).get_tables(DatabaseName="iot"),
        "list users": lambda: client("iam", endpoint, key, secret).list_users(),
        "wrong secret": lambda: client("firehose", endpoint, key, "wrong").put_record_batch(
            DeliveryStreamName=stream, Records=[record]
        ),
    }
    for name, attempt in tries.items():
        try:
            attempt()
            print(name)
        except botocore.exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if not any(word in code for word in ("AccessDenied", "Signature", "InvalidClient")):
                sys.exit(f"{name}: {error}")


def put(endpoint, stream, text):
    client("firehose", endpoint).put_record_batch(
        DeliveryStreamName=stream, Records=[{"Data": text.encode()}]
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


def athena(endpoint, bucket, sql, database=DATABASE):
    client_ = client("athena", endpoint)
    query = client_.start_query_execution(
        QueryString=sql,
        QueryExecutionContext={"Database": database},
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
    verbs = [allowed, apply, athena, create, device, fetch, put]
    {verb.__name__: verb for verb in verbs}[sys.argv[1]](*sys.argv[2:])
