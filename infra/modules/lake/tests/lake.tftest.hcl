# What the lake plans, and what it refuses in words.

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
  name = "iot-agent"
}

run "projection" {
  command = plan

  assert {
    condition     = output.bucket_name == "iot-agent-123456789012-eu-west-1"
    error_message = "A name that nobody else is likely to have."
  }

  assert {
    condition     = aws_glue_catalog_table.raw.parameters["storage.location.template"] == "s3://iot-agent-123456789012-eu-west-1/data/timestamp_sent=$${timestamp_sent}/"
    error_message = "Athena works the folders out as the agent and Firehose name them."
  }

  assert {
    condition     = length(aws_glue_crawler.raw) == 0
    error_message = "Nothing runs where projection does the work."
  }

  assert {
    condition     = alltrue([for query in aws_athena_named_query.query : can(regex("(?i)\\bfrom\\s+${aws_glue_catalog_table.raw.name}\\b", query.query))])
    error_message = "Saved queries read the table."
  }
}

run "crawler" {
  command = plan

  variables {
    partition_discovery = "crawler"
  }

  assert {
    condition     = !contains(keys(aws_glue_catalog_table.raw.parameters), "projection.enabled")
    error_message = "A table with projection does not look at the crawler's partitions."
  }

  assert {
    condition     = aws_glue_crawler.raw[0].catalog_target[0].tables == tolist(["raw"]) && length(aws_glue_crawler.raw[0].s3_target) == 0
    error_message = "The crawler is given the table, so that it makes none."
  }

  assert {
    condition     = jsondecode(aws_glue_crawler.raw[0].configuration).CrawlerOutput.Partitions.AddOrUpdateBehavior == "InheritFromTable" && aws_glue_crawler.raw[0].schema_change_policy[0].update_behavior == "LOG"
    error_message = "The crawler changes no column."
  }
}

run "unknown_region" {
  command = plan

  override_data {
    target = data.aws_region.current
    values = { region = "xx-nowhere-1" }
  }

  expect_failures = [aws_s3_bucket.lake]
}

run "key_of_another_region" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }

  expect_failures = [aws_s3_bucket.lake]
}

run "capitals_in_a_bucket" {
  command = plan

  variables {
    bucket_name = "My_Lake"
  }

  expect_failures = [var.bucket_name]
}

run "dots_in_a_bucket" {
  command = plan

  variables {
    bucket_name = "my.lake"
  }

  expect_failures = [var.bucket_name]
}

run "zero_retention" {
  command = plan

  variables {
    raw_retention_days = 0
  }

  expect_failures = [var.raw_retention_days]
}

run "zero_error_retention" {
  command = plan

  variables {
    error_retention_days = 0
  }

  expect_failures = [var.error_retention_days]
}

run "half_a_day" {
  command = plan

  variables {
    raw_retention_days = 0.5
  }

  expect_failures = [var.raw_retention_days]
}

run "unknown_discovery" {
  command = plan

  variables {
    partition_discovery = "guess"
  }

  expect_failures = [var.partition_discovery]
}

run "alias_for_a_key" {
  command = plan

  variables {
    kms_key_arn = "alias/lake"
  }

  expect_failures = [var.kms_key_arn]
}

run "hour_25" {
  command = plan

  variables {
    raw_start = "2026-01-01 25"
  }

  expect_failures = [var.raw_start]
}

run "too_few_bytes" {
  command = plan

  variables {
    athena_bytes_limit = 1000
  }

  expect_failures = [var.athena_bytes_limit]
}

run "unix_cron" {
  command = plan

  variables {
    crawler_schedule = "20 * * * *"
  }

  expect_failures = [var.crawler_schedule]
}

run "bad_name" {
  command = plan

  variables {
    name = "IoT"
  }

  expect_failures = [var.name]
}
