# Alarms, whom they tell, and what the module refuses in words.

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
  name        = "iot-agent"
  stream_name = "iot-telemetry"
  emails      = ["ops@example.org"]
}

run "alarms" {
  command = plan

  assert {
    condition     = toset([for alarm in aws_cloudwatch_metric_alarm.each : one(alarm.alarm_actions)]) == toset([jsondecode(aws_sns_topic_policy.alarms[0].policy).Statement[0].Resource])
    error_message = "Every alarm goes to the topic that CloudWatch may publish to."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.each : alarm.dimensions.DeliveryStreamName == "iot-telemetry"])
    error_message = "Alarms watch one stream."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.each["silent"].treat_missing_data == "breaching" && aws_cloudwatch_metric_alarm.each["silent"].evaluation_periods == 6
    error_message = "No metric at all is silence, and silence is measured in steps of five minutes."
  }

  assert {
    condition     = length(jsondecode(aws_cloudwatch_dashboard.stream[0].dashboard_body).widgets) == 4 && length(aws_budgets_budget.month) == 0
    error_message = "A dashboard, and no budget unless it is asked for."
  }

  assert {
    condition = alltrue([
      for widget in jsondecode(aws_cloudwatch_dashboard.stream[0].dashboard_body).widgets :
      widget.type == "metric" && widget.properties.region == "eu-west-1" && length(widget.properties.metrics) > 0
      && alltrue([for metric in widget.properties.metrics : metric[0] == "AWS/Firehose" && metric[3] == "iot-telemetry"])
    ])
    error_message = "The dashboard shows this stream, here."
  }
}

run "encrypted_topic" {
  command = plan

  assert {
    condition     = length(aws_kms_key.topic) == 1 && aws_kms_key.topic[0].enable_key_rotation
    error_message = "The topic has a key, for AWS's own lets no alarm use it."
  }

  assert {
    condition = [
      for statement in jsondecode(aws_kms_key.topic[0].policy).Statement : [statement.Action, statement.Condition]
      if contains(keys(statement.Principal), "Service")
      ] == [[["kms:Decrypt", "kms:GenerateDataKey"], {
        StringEquals = { "aws:SourceAccount" = "123456789012" }
        ArnLike      = { "aws:SourceArn" = "arn:aws:cloudwatch:eu-west-1:123456789012:alarm:iot-agent-*" }
    }]]
    error_message = "Alarms of this account and name may use the key, and no other service."
  }
}

run "key_of_ones_own" {
  command = plan

  variables {
    topic_kms_key_id = "alias/ops"
  }

  assert {
    condition     = length(aws_kms_key.topic) == 0 && aws_sns_topic.alarms[0].kms_master_key_id == "alias/ops"
    error_message = "No second key."
  }
}

run "logs" {
  command = plan

  variables {
    stream_log_group_name = "/aws/kinesisfirehose/iot-telemetry"
    job_log_group_name    = "/aws-glue/jobs/iot-telemetry-layers/output"
  }

  assert {
    condition = alltrue([
      for key in ["errors", "job"] :
      one(aws_cloudwatch_log_metric_filter.counted[key].metric_transformation).name == aws_cloudwatch_metric_alarm.each[key].metric_name
      && one(aws_cloudwatch_log_metric_filter.counted[key].metric_transformation).namespace == aws_cloudwatch_metric_alarm.each[key].namespace
    ])
    error_message = "An alarm watches the metric that its lines are counted in."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.each["job"].treat_missing_data == "breaching" && aws_cloudwatch_metric_alarm.each["job"].period * aws_cloudwatch_metric_alarm.each["job"].evaluation_periods == 26 * 3600
    error_message = "A job that says nothing for a day and two hours has not finished."
  }
}

run "job_that_is_never_late" {
  command = plan

  variables {
    job_hours = 169
  }

  expect_failures = [var.job_hours]
}

run "topic_of_ones_own" {
  command = plan

  variables {
    alarm_topic_arn = "arn:aws:sns:eu-west-1:123456789012:ops"
    silent_minutes  = null
  }

  assert {
    condition     = length(aws_sns_topic.alarms) == 0 && length(aws_kms_key.topic) == 0 && !contains(keys(aws_cloudwatch_metric_alarm.each), "silent")
    error_message = "No second topic, and no alarm that was turned off."
  }
}

run "budget_of_a_tag" {
  command = plan

  variables {
    budget_usd = 20
    budget_tag = { key = "project", value = "iot" }
  }

  assert {
    condition     = one(aws_budgets_budget.month[0].cost_filter).values == tolist(["user:project$iot"])
    error_message = "A tag is named as AWS Budgets names it."
  }
}

run "budget_that_tells_nobody" {
  command = plan

  variables {
    budget_usd = 20
    emails     = []
  }

  expect_failures = [aws_budgets_budget.month]
}

run "no_budget_at_all" {
  command = plan

  variables {
    budget_usd = 0
  }

  expect_failures = [var.budget_usd]
}

run "too_fresh" {
  command = plan

  variables {
    freshness_seconds = 10
  }

  expect_failures = [var.freshness_seconds]
}

run "no_address" {
  command = plan

  variables {
    emails = ["ops"]
  }

  expect_failures = [var.emails]
}

run "arn_for_a_stream" {
  command = plan

  variables {
    stream_name = "arn:aws:firehose:eu-west-1:123456789012:deliverystream/iot-telemetry"
  }

  expect_failures = [var.stream_name]
}

run "key_with_a_typo" {
  command = plan

  variables {
    topic_kms_key_id = "arn:aws:sns:eu-west-1:123456789012:ops"
  }

  expect_failures = [var.topic_kms_key_id]
}

run "key_of_aws" {
  command = plan

  variables {
    topic_kms_key_id = "alias/aws/sns"
  }

  expect_failures = [var.topic_kms_key_id]
}

run "budget_of_a_tag_of_aws" {
  command = plan

  variables {
    budget_usd = 20
    budget_tag = { key = "aws:createdBy", value = "root" }
  }

  expect_failures = [var.budget_tag]
}

run "budget_of_no_tag" {
  command = plan

  variables {
    budget_usd = 20
    budget_tag = { key = "", value = "iot" }
  }

  expect_failures = [var.budget_tag]
}
