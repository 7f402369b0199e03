output "job_name" {
  description = "Name of the Glue job."
  value       = aws_glue_job.layers.name
}

output "role_arn" {
  description = "ARN of the job's role."
  value       = aws_iam_role.job.arn
}

output "log_group_names" {
  description = "Names of the job's log groups: what Spark says, and what the job says."
  value       = sort([for group in aws_cloudwatch_log_group.job : group.name])
}

output "output_log_group_name" {
  description = "Name of the log group that has what the job says."
  value       = aws_cloudwatch_log_group.job["${local.log_prefix}/output"].name
}

output "processed" {
  description = "Name of the table of samples."
  value       = aws_glue_catalog_table.layers["processed"].name
}

output "markers" {
  description = "Name of the table of markers."
  value       = aws_glue_catalog_table.layers["markers"].name
}

output "trusted_hourly" {
  description = "Name of the table of hours."
  value       = aws_glue_catalog_table.layers["trusted_hourly"].name
}

output "trusted_daily" {
  description = "Name of the table of days."
  value       = aws_glue_catalog_table.layers["trusted_daily"].name
}

output "completeness" {
  description = "Name of the completeness table."
  value       = aws_glue_catalog_table.layers["completeness"].name
}

output "quarantine" {
  description = "Name of the table of bad rows."
  value       = aws_glue_catalog_table.layers["quarantine"].name
}
