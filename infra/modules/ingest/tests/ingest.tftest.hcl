# What the stream is planned to do, and what it refuses in words.

mock_provider "aws" {
  override_data {
    target = data.aws_caller_identity.current
    values = { account_id = "123456789012" }
  }

  override_data {
    target = data.aws_partition.current
    values = { partition = "aws" }
  }

  override_data {
    target = data.aws_region.current
    values = { region = "eu-west-1" }
  }
}

variables {
  name = "iot-telemetry"
  lake = {
    bucket_arn     = "arn:aws:s3:::iot-lake"
    catalog_arn    = "arn:aws:glue:eu-west-1:123456789012:catalog"
    database_name  = "iot"
    database_arn   = "arn:aws:glue:eu-west-1:123456789012:database/iot"
    raw_table_name = "raw"
    raw_table_arn  = "arn:aws:glue:eu-west-1:123456789012:table/iot/raw"
  }
}

run "by_sending" {
  command = plan

  assert {
    condition = [
      for processor in aws_kinesis_firehose_delivery_stream.samples.extended_s3_configuration[0].processing_configuration[0].processors : processor.type
    ] == ["RecordDeAggregation", "MetadataExtraction"]
    error_message = "Lines are parted before they are asked for their hour."
  }

  assert {
    condition     = aws_kinesis_firehose_delivery_stream.samples.extended_s3_configuration[0].dynamic_partitioning_configuration[0].enabled
    error_message = "The prefix asks for a partition key."
  }
}

run "by_arrival" {
  command = plan

  variables {
    partitioning = "arrival"
  }

  assert {
    condition     = length(aws_kinesis_firehose_delivery_stream.samples.extended_s3_configuration[0].processing_configuration) == 0 && length(aws_kinesis_firehose_delivery_stream.samples.extended_s3_configuration[0].dynamic_partitioning_configuration) == 0
    error_message = "What is billed for partitioning is off."
  }

  assert {
    condition     = aws_kinesis_firehose_delivery_stream.samples.extended_s3_configuration[0].prefix == "data/timestamp_sent=!{timestamp:yyyy-MM-dd HH}/"
    error_message = "Folders have the same names."
  }
}

run "backup" {
  command = plan

  variables {
    source_backup = true
  }

  assert {
    condition     = aws_kinesis_firehose_delivery_stream.samples.extended_s3_configuration[0].s3_backup_mode == "Enabled" && strcontains(aws_iam_role_policy.stream.policy, "iot-lake/backup/*")
    error_message = "What is kept as it arrived may be written."
  }
}

run "small_buffer" {
  command = plan

  variables {
    buffer_mib = 5
  }

  expect_failures = [var.buffer_mib]
}

run "short_buffer" {
  command = plan

  variables {
    buffer_seconds = 10
  }

  expect_failures = [var.buffer_seconds]
}

run "unknown_partitioning" {
  command = plan

  variables {
    partitioning = "device"
  }

  expect_failures = [var.partitioning]
}

run "odd_retention" {
  command = plan

  variables {
    log_retention_days = 0
  }

  expect_failures = [var.log_retention_days]
}

run "bad_name" {
  command = plan

  variables {
    name = "iot telemetry"
  }

  expect_failures = [var.name]
}
