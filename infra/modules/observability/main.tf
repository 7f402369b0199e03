data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  # Of the stream itself: a metric's name, its statistic, and what about it is bad.
  # Each is looked at every five minutes; where it says nothing, nothing arrived.
  of_stream = merge(
    {
      freshness = {
        metric      = "DeliveryToS3.DataFreshness"
        statistic   = "Maximum"
        operator    = "GreaterThanThreshold"
        threshold   = var.freshness_seconds
        periods     = 3
        missing     = "notBreaching"
        description = "The oldest row that Firehose has not yet written to S3 is older than ${var.freshness_seconds} s. Where writing errors/ fails, Firehose holds everything back: look at its log."
      }
      conversion = {
        metric      = "FailedConversion.Records"
        statistic   = "Sum"
        operator    = "GreaterThanThreshold"
        threshold   = 0
        periods     = 1
        missing     = "notBreaching"
        description = "Firehose could not make Parquet of rows: they are under errors/format-conversion-failed/, with the reason."
      }
      throttles = {
        metric      = "ThrottledRecords"
        statistic   = "Sum"
        operator    = "GreaterThanThreshold"
        threshold   = 0
        periods     = 3
        missing     = "notBreaching"
        description = "Firehose turns records away for 15 minutes: agents keep them and try again. Ask AWS for a larger quota of the stream."
      }
      partitions = {
        metric      = "PartitionCountExceeded"
        statistic   = "Maximum"
        operator    = "GreaterThanThreshold"
        threshold   = 0
        periods     = 1
        missing     = "notBreaching"
        description = "Rows name more hours at once than Firehose keeps open; the rest goes to errors/. A device's clock may be wrong."
      }
    },
    var.silent_minutes == null ? {} : {
      silent = {
        metric      = "IncomingRecords"
        statistic   = "Sum"
        operator    = "LessThanThreshold"
        threshold   = 1
        periods     = ceil(var.silent_minutes / 5)
        missing     = "breaching"
        description = "Nothing has arrived from any device for ${var.silent_minutes} minutes. The saved query silent names single devices."
      }
    },
  )

  # Of lines in a log, counted in a metric of the alarm's name.
  of_logs = merge(
    var.stream_log_group_name == null ? {} : {
      errors = {
        group = var.stream_log_group_name
        # Any line: Firehose logs what failed and nothing else.
        pattern     = ""
        operator    = "GreaterThanThreshold"
        threshold   = 0
        period      = 300
        periods     = 1
        missing     = "notBreaching"
        description = "Firehose logged an error: the log group ${var.stream_log_group_name} says which, errors/ has what it could not place."
      }
    },
    var.job_log_group_name == null ? {} : {
      job = {
        group       = var.job_log_group_name
        pattern     = "\"layers finished\""
        operator    = "LessThanThreshold"
        threshold   = 1
        period      = 3600
        periods     = var.job_hours
        missing     = "breaching"
        description = "No run of the layers' job has finished for ${var.job_hours} hours: it failed, was ended, or was not started. Its run history in AWS Glue says which; the log group is ${var.job_log_group_name}."
      }
    },
  )

  alarms = merge(
    { for key, alarm in local.of_stream : key => merge(alarm, {
      namespace  = "AWS/Firehose"
      dimensions = { DeliveryStreamName = var.stream_name }
      period     = 300
    }) },
    { for key, alarm in local.of_logs : key => merge(alarm, {
      namespace  = var.name
      dimensions = {}
      metric     = key
      statistic  = "Sum"
    }) },
  )
}

resource "aws_cloudwatch_log_metric_filter" "counted" {
  for_each = local.of_logs

  name           = "${var.name}-${each.key}"
  log_group_name = each.value.group
  pattern        = each.value.pattern

  metric_transformation {
    name      = each.key
    namespace = var.name
    value     = "1"
  }
}

resource "aws_cloudwatch_metric_alarm" "each" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = each.value.operator
  threshold           = each.value.threshold
  period              = each.value.period
  evaluation_periods  = each.value.periods
  treat_missing_data  = each.value.missing
  alarm_actions       = [local.topic_arn]
  ok_actions          = [local.topic_arn]
  tags                = var.tags

  depends_on = [aws_sns_topic.alarms]
}

resource "aws_cloudwatch_dashboard" "stream" {
  count = var.dashboard ? 1 : 0

  dashboard_name = var.name

  dashboard_body = jsonencode({
    widgets = [
      for index, widget in [
        { title = "Records and bytes that arrive", metrics = ["IncomingRecords", "IncomingBytes"], stat = "Sum" },
        { title = "Age of the oldest row not yet in S3, s", metrics = ["DeliveryToS3.DataFreshness"], stat = "Maximum" },
        { title = "Rows converted, and not", metrics = ["SucceedConversion.Records", "FailedConversion.Records"], stat = "Sum" },
        { title = "Records turned away", metrics = ["ThrottledRecords"], stat = "Sum" },
        ] : {
        type   = "metric"
        x      = 12 * (index % 2)
        y      = 6 * floor(index / 2)
        width  = 12
        height = 6
        properties = {
          title   = widget.title
          region  = local.region
          stat    = widget.stat
          period  = 300
          metrics = [for metric in widget.metrics : ["AWS/Firehose", metric, "DeliveryStreamName", var.stream_name]]
        }
      }
    ]
  })
}

resource "aws_budgets_budget" "month" {
  count = var.budget_usd == null ? 0 : 1

  name         = var.name
  budget_type  = "COST"
  limit_amount = tostring(var.budget_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"
  tags         = var.tags

  # The whole account, unless a tag is activated for cost allocation by hand first.
  dynamic "cost_filter" {
    for_each = var.budget_tag == null ? [] : [var.budget_tag]

    content {
      name   = "TagKeyValue"
      values = [format("user:%s$%s", cost_filter.value.key, cost_filter.value.value)]
    }
  }

  dynamic "notification" {
    for_each = [80, 100]

    content {
      comparison_operator        = "GREATER_THAN"
      notification_type          = notification.value == 100 ? "FORECASTED" : "ACTUAL"
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = var.emails
    }
  }

  lifecycle {
    precondition {
      condition     = length(var.emails) > 0
      error_message = "budget_usd needs somebody to tell: name an address in emails."
    }
  }
}
