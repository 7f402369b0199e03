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
    condition     = toset([for alarm in aws_cloudwatch_metric_alarm.stream : one(alarm.alarm_actions)]) == toset([jsondecode(aws_sns_topic_policy.alarms[0].policy).Statement[0].Resource])
    error_message = "Every alarm goes to the topic that CloudWatch may publish to."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.stream : alarm.dimensions.DeliveryStreamName == "iot-telemetry"])
    error_message = "Alarms watch one stream."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.stream["silent"].treat_missing_data == "breaching" && aws_cloudwatch_metric_alarm.stream["silent"].evaluation_periods == 6
    error_message = "No metric at all is silence, and silence is measured in steps of five minutes."
  }

  assert {
    condition     = length(jsondecode(aws_cloudwatch_dashboard.stream[0].dashboard_body).widgets) == 4 && length(aws_budgets_budget.month) == 0
    error_message = "A dashboard, and no budget unless it is asked for."
  }
}

run "topic_of_ones_own" {
  command = plan

  variables {
    alarm_topic_arn = "arn:aws:sns:eu-west-1:123456789012:ops"
    silent_minutes  = null
  }

  assert {
    condition     = length(aws_sns_topic.alarms) == 0 && !contains(keys(aws_cloudwatch_metric_alarm.stream), "silent")
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
