"""AWS Glue's side of the job: its arguments, its Spark, a bucket of S3."""

import logging
import sys

import boto3
from awsglue.utils import getResolvedOptions
from pyspark.sql import SparkSession

from layers_job import run
from layers_store import S3Store

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stdout)
chosen = getResolvedOptions(sys.argv, ["lake_bucket", "batch", "buckets"])
store = S3Store(boto3.client("s3"), chosen["lake_bucket"])
# --extra-files has put it into the working folder.
taken = run(
    SparkSession.builder.getOrCreate(),
    store,
    "sample.json",
    int(chosen["batch"]),
    int(chosen["buckets"]),
)
# An alarm of modules/observability waits for these words.
logging.getLogger("layers").info("layers finished: %d raw objects", taken)
