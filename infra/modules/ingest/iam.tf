resource "aws_iam_role" "stream" {
  name        = "${var.name}-firehose"
  description = "Writes what arrives at ${var.name} into the lake."
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Firehose"
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "firehose.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnEquals    = { "aws:SourceArn" = local.stream_arn }
      }
    }]
  })
}

locals {
  written = concat(["data", "errors"], var.source_backup ? ["backup"] : [])

  statements = [
    {
      Sid      = "Bucket"
      Effect   = "Allow"
      Action   = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
      Resource = [var.lake.bucket_arn]
    },
    {
      Sid      = "Write"
      Effect   = "Allow"
      Action   = ["s3:AbortMultipartUpload", "s3:PutObject"]
      Resource = [for folder in local.written : "${var.lake.bucket_arn}/${folder}/*"]
    },
    {
      Sid      = "Schema"
      Effect   = "Allow"
      Action   = ["glue:GetTable", "glue:GetTableVersion", "glue:GetTableVersions"]
      Resource = [var.lake.catalog_arn, var.lake.database_arn, var.lake.raw_table_arn]
    },
    {
      Sid      = "Log"
      Effect   = "Allow"
      Action   = ["logs:PutLogEvents"]
      Resource = [for name in local.log_streams : "${local.log_group_arn}:log-stream:${name}"]
    },
  ]
  key_statements = var.lake.kms_key_arn == null ? [] : [{
    Sid       = "Encrypt"
    Effect    = "Allow"
    Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
    Resource  = [var.lake.kms_key_arn]
    Condition = { StringEquals = { "kms:ViaService" = "s3.${local.region}.amazonaws.com" } }
  }]
}

resource "aws_iam_role_policy" "stream" {
  name = "deliver"
  role = aws_iam_role.stream.name

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat(local.statements, local.key_statements)
  })
}
