data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  make_topic = var.alarm_topic_arn == null
  topic_arn  = local.make_topic ? "arn:${local.partition}:sns:${local.region}:${local.account}:${var.name}-alarms" : var.alarm_topic_arn

  # A metric's name, its statistic, and what about it is bad. Each is looked at
  # every five minutes; where it says nothing, nothing arrived.
  alarms = merge(
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
}

resource "aws_cloudwatch_metric_alarm" "stream" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = "AWS/Firehose"
  metric_name         = each.value.metric
  dimensions          = { DeliveryStreamName = var.stream_name }
  statistic           = each.value.statistic
  comparison_operator = each.value.operator
  threshold           = each.value.threshold
  period              = 300
  evaluation_periods  = each.value.periods
  treat_missing_data  = each.value.missing
  alarm_actions       = [local.topic_arn]
  ok_actions          = [local.topic_arn]
  tags                = var.tags

  depends_on = [aws_sns_topic.alarms]
}

resource "aws_sns_topic" "alarms" {
  # checkov:skip=CKV_AWS_26: alarms hold names and numbers, and CloudWatch cannot use AWS's own key for SNS; topic_kms_key_id names one that it may
  count = local.make_topic ? 1 : 0

  name              = "${var.name}-alarms"
  kms_master_key_id = var.topic_kms_key_id
  tags              = var.tags
}

resource "aws_sns_topic_policy" "alarms" {
  count = local.make_topic ? 1 : 0

  arn = aws_sns_topic.alarms[0].arn

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Alarms"
      Effect    = "Allow"
      Action    = "sns:Publish"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Resource  = local.topic_arn
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:cloudwatch:${local.region}:${local.account}:alarm:${var.name}-*" }
      }
    }]
  })
}

resource "aws_sns_topic_subscription" "email" {
  for_each = local.make_topic ? toset(var.emails) : toset([])

  topic_arn = aws_sns_topic.alarms[0].arn
  protocol  = "email"
  endpoint  = each.key
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
