locals {
  schema     = jsondecode(file(coalesce(var.schema_file, "${path.module}/../../schema/sample.json"))).columns
  columns    = [for column in local.schema : column if !try(column.partition, false)]
  partitions = [for column in local.schema : column if try(column.partition, false)]

  data_url   = "s3://${local.bucket_name}/data/"
  by_crawler = var.partition_discovery == "crawler"

  # Athena works hours out by itself, so that a new one needs no entry in the catalog.
  projection = {
    "projection.enabled"                      = "true"
    "projection.timestamp_sent.type"          = "date"
    "projection.timestamp_sent.format"        = "yyyy-MM-dd HH"
    "projection.timestamp_sent.interval"      = "1"
    "projection.timestamp_sent.interval.unit" = "HOURS"
    "projection.timestamp_sent.range"         = "${var.raw_start},NOW"
    "storage.location.template"               = "${local.data_url}timestamp_sent=$${timestamp_sent}/"
  }
}

resource "aws_glue_catalog_database" "lake" {
  name        = local.database
  description = "Samples of iot-agent."
  tags        = var.tags
}

resource "aws_glue_catalog_table" "raw" {
  database_name = aws_glue_catalog_database.lake.name
  name          = local.table
  description   = "Samples and markers as they arrived."
  table_type    = "EXTERNAL_TABLE"

  parameters = merge(
    { EXTERNAL = "TRUE", classification = "parquet" },
    local.by_crawler ? {} : local.projection,
  )

  dynamic "partition_keys" {
    for_each = local.partitions

    content {
      name    = partition_keys.value.name
      type    = partition_keys.value.type
      comment = partition_keys.value.comment
    }
  }

  storage_descriptor {
    location      = local.data_url
    input_format  = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat"
    output_format = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat"

    ser_de_info {
      serialization_library = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
    }

    dynamic "columns" {
      for_each = local.columns

      content {
        name    = columns.value.name
        type    = columns.value.type
        comment = columns.value.comment
      }
    }
  }

  lifecycle {
    precondition {
      condition     = join(",", [for column in local.partitions : column.name]) == "timestamp_sent"
      error_message = "The schema file has to have one column with \"partition\": true, timestamp_sent: Firehose and the folders of the lake are made for it."
    }
    precondition {
      condition     = length(distinct([for column in local.schema : lower(column.name)])) == length(local.schema)
      error_message = "The schema file names a column twice (AWS Glue does not tell capitals from small letters), which Athena cannot read."
    }
  }
}

resource "aws_athena_workgroup" "lake" {
  name          = var.name
  description   = "Queries of iot-agent's lake."
  force_destroy = var.force_destroy
  tags          = var.tags

  configuration {
    bytes_scanned_cutoff_per_query     = var.athena_bytes_limit
    enforce_workgroup_configuration    = true
    publish_cloudwatch_metrics_enabled = true

    engine_version {
      selected_engine_version = "Athena engine version 3"
    }

    result_configuration {
      output_location       = "s3://${aws_s3_bucket.lake.bucket}/athena-results/"
      expected_bucket_owner = local.account

      encryption_configuration {
        encryption_option = var.kms_key_arn == null ? "SSE_S3" : "SSE_KMS"
        kms_key_arn       = var.kms_key_arn
      }
    }
  }
}

# The files read a relation called samples. Here that is the table itself: a view
# would keep a list of columns of its own, which a new column makes stale.
resource "aws_athena_named_query" "query" {
  for_each = fileset("${path.module}/../../queries", "*.sql")

  name        = trimsuffix(each.key, ".sql")
  description = substr(try(regex("^-- ?([^\n]*)", file("${path.module}/../../queries/${each.key}"))[0], each.key), 0, 1024)
  workgroup   = aws_athena_workgroup.lake.name
  database    = aws_glue_catalog_database.lake.name
  query       = replace(file("${path.module}/../../queries/${each.key}"), "/(?i)\\b(from|join)(\\s+)samples\\b/", "$${1}$${2}${local.table}")
}
