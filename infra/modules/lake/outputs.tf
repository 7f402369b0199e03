# Names are known before the things are there. Each output waits for what it names.

output "bucket_name" {
  description = "Name of the bucket."
  value       = local.bucket_name
  depends_on  = [aws_s3_bucket_policy.lake, aws_s3_bucket_server_side_encryption_configuration.lake]
}

output "bucket_arn" {
  description = "ARN of the bucket."
  value       = local.bucket_arn
}

output "kms_key_arn" {
  description = "ARN of the key that encrypts the bucket; null with S3's own encryption."
  value       = var.kms_key_arn
}

output "database_name" {
  description = "Name of the AWS Glue database."
  value       = local.database
  depends_on  = [aws_glue_catalog_database.lake]
}

output "database_arn" {
  description = "ARN of the AWS Glue database."
  value       = local.database_arn
}

output "raw_table_name" {
  description = "Name of the table of raw rows."
  value       = local.table
  depends_on  = [aws_glue_catalog_table.raw]
}

output "raw_table_arn" {
  description = "ARN of the table of raw rows."
  value       = local.table_arn
}

output "catalog_arn" {
  description = "ARN of the AWS Glue catalog."
  value       = local.catalog_arn
}

output "workgroup_name" {
  description = "Name of the Athena workgroup."
  value       = aws_athena_workgroup.lake.name
}

output "results_prefix" {
  description = "Where Athena's results go, as s3://BUCKET/PREFIX/."
  value       = "s3://${local.bucket_name}/athena-results/"
}
