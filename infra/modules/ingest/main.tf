data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  # Put together from names, so that a plan shows whole policies before anything is there.
  stream_arn    = "arn:${local.partition}:firehose:${local.region}:${local.account}:deliverystream/${var.name}"
  log_group     = "/aws/kinesisfirehose/${var.name}"
  log_group_arn = "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:${local.log_group}"
  log_streams   = toset(concat(["delivery"], var.source_backup ? ["backup"] : []))

  by_sending = var.partitioning == "timestamp_sent"
  # A space is part of the hour's name, as in the lake that the agent fills by itself.
  prefix = local.by_sending ? "data/timestamp_sent=!{partitionKeyFromQuery:timestamp_sent}/" : "data/timestamp_sent=!{timestamp:yyyy-MM-dd HH}/"
  # Lines of one record may belong to two hours, so they are parted before they are asked.
  processors = local.by_sending ? [
    { type = "RecordDeAggregation", parameters = { SubRecordType = "JSON" } },
    { type = "MetadataExtraction", parameters = {
      JsonParsingEngine       = "JQ-1.6"
      MetadataExtractionQuery = "{timestamp_sent:.timestamp_sent}"
    } },
  ] : []
}

resource "aws_cloudwatch_log_group" "stream" {
  # checkov:skip=CKV_AWS_158: the log names objects and errors and holds no readings; CloudWatch encrypts it with its own key
  # checkov:skip=CKV_AWS_338: log_retention_days is longer where that is wanted
  name              = local.log_group
  retention_in_days = var.log_retention_days
  tags              = var.tags
}

resource "aws_cloudwatch_log_stream" "stream" {
  for_each = local.log_streams

  name           = each.key
  log_group_name = aws_cloudwatch_log_group.stream.name
}

resource "aws_kinesis_firehose_delivery_stream" "samples" {
  # checkov:skip=CKV_AWS_241: what waits here for minutes is encrypted with a key of AWS; the lake's own key guards what stays
  name        = var.name
  destination = "extended_s3"
  tags        = var.tags

  server_side_encryption {
    enabled  = true
    key_type = "AWS_OWNED_CMK"
  }

  extended_s3_configuration {
    role_arn            = aws_iam_role.stream.arn
    bucket_arn          = var.lake.bucket_arn
    prefix              = local.prefix
    error_output_prefix = "errors/!{firehose:error-output-type}/"
    buffering_size      = var.buffer_mib
    buffering_interval  = var.buffer_seconds
    # Parquet compresses itself.
    compression_format = "UNCOMPRESSED"
    s3_backup_mode     = var.source_backup ? "Enabled" : "Disabled"

    dynamic "s3_backup_configuration" {
      for_each = var.source_backup ? ["backup/"] : []

      content {
        role_arn            = aws_iam_role.stream.arn
        bucket_arn          = var.lake.bucket_arn
        prefix              = s3_backup_configuration.value
        error_output_prefix = "errors/backup/!{firehose:error-output-type}/"
        buffering_size      = var.buffer_mib
        buffering_interval  = var.buffer_seconds
        compression_format  = "GZIP"

        cloudwatch_logging_options {
          enabled         = true
          log_group_name  = aws_cloudwatch_log_group.stream.name
          log_stream_name = aws_cloudwatch_log_stream.stream["backup"].name
        }
      }
    }

    dynamic "dynamic_partitioning_configuration" {
      for_each = local.by_sending ? [300] : []

      content {
        enabled        = true
        retry_duration = dynamic_partitioning_configuration.value
      }
    }

    dynamic "processing_configuration" {
      for_each = local.by_sending ? [local.processors] : []

      content {
        enabled = true

        dynamic "processors" {
          for_each = processing_configuration.value

          content {
            type = processors.value.type

            dynamic "parameters" {
              for_each = processors.value.parameters

              content {
                parameter_name  = parameters.key
                parameter_value = parameters.value
              }
            }
          }
        }
      }
    }

    data_format_conversion_configuration {
      enabled = true

      input_format_configuration {
        deserializer {
          open_x_json_ser_de {}
        }
      }

      output_format_configuration {
        serializer {
          parquet_ser_de {
            compression = "SNAPPY"
          }
        }
      }

      schema_configuration {
        database_name = var.lake.database_name
        table_name    = var.lake.raw_table_name
        region        = local.region
        role_arn      = aws_iam_role.stream.arn
        # A column that is added to the table counts at once.
        version_id = "LATEST"
      }
    }

    cloudwatch_logging_options {
      enabled         = true
      log_group_name  = aws_cloudwatch_log_group.stream.name
      log_stream_name = aws_cloudwatch_log_stream.stream["delivery"].name
    }
  }

  # Without its policy a new role fails the first deliveries.
  depends_on = [aws_iam_role_policy.stream]
}
