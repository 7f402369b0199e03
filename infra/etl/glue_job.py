"""AWS Glue's side of the job: its arguments, its Spark, a bucket of S3."""

import argparse
import logging
import sys

import boto3
from pyspark.sql import SparkSession

from layers_job import run
from layers_store import S3Store

# By force, for whoever starts this may have set a way of logging before.
logging.basicConfig(
    level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stdout, force=True
)
parser = argparse.ArgumentParser()
parser.add_argument("--lake_bucket", required=True)
parser.add_argument("--batch", required=True, type=int)
parser.add_argument("--buckets", required=True, type=int)
# Glue hands over arguments of its own as well.
chosen, _ = parser.parse_known_args()
store = S3Store(boto3.client("s3"), chosen.lake_bucket)
# --extra-files has put sample.json into the working folder.
taken = run(SparkSession.builder.getOrCreate(), store, "sample.json", chosen.batch, chosen.buckets)
# An alarm of modules/observability waits for these words.
logging.getLogger("layers").info("layers finished: %d raw objects", taken)
