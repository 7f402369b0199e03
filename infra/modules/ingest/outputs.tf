output "stream_name" {
  description = "Name of the delivery stream: sink.firehose.stream of an agent."
  value       = aws_kinesis_firehose_delivery_stream.samples.name
}

output "stream_arn" {
  description = "ARN of the delivery stream."
  value       = local.stream_arn
  depends_on  = [aws_kinesis_firehose_delivery_stream.samples]
}

output "log_group_name" {
  description = "Name of the log group that has Firehose's errors."
  value       = aws_cloudwatch_log_group.stream.name
}

output "role_arn" {
  description = "ARN of the role that Firehose takes on."
  value       = aws_iam_role.stream.arn
}
