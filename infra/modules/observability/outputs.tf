output "topic_arn" {
  description = "ARN of the topic that alarms go to."
  value       = local.topic_arn
  depends_on  = [aws_sns_topic_policy.alarms]
}

output "alarm_names" {
  description = "Names of the alarms."
  value       = [for alarm in aws_cloudwatch_metric_alarm.each : alarm.alarm_name]
}

output "dashboard_name" {
  description = "Name of the dashboard; null without one."
  value       = one(aws_cloudwatch_dashboard.stream[*].dashboard_name)
}
