locals {
  folders = ["processed", "trusted", "quarantine", "etl/state", "etl/staging", "etl/temporary"]
  written = concat(["etl_*"], flatten([for folder in local.folders : ["${folder}/*", "${folder}_*"]]))
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["glue.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }

    condition {
      test     = "ArnLike"
      variable = "aws:SourceArn"
      values   = ["arn:${local.partition}:glue:${local.region}:${local.account}:*"]
    }
  }
}

data "aws_iam_policy_document" "job" {
  # Without a condition on the prefix: Spark asks for objects that are not there, and
  # S3 answers with 404 only whoever may list the bucket, anybody else with 403.
  statement {
    sid       = "FindObjects"
    actions   = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = [var.lake.bucket_arn]
  }

  statement {
    sid       = "ReadRowsAndProgram"
    actions   = ["s3:GetObject"]
    resources = ["${var.lake.bucket_arn}/data/*", "${var.lake.bucket_arn}/etl/*"]
  }

  # Not its own program. Spark on Glue writes in parts, and marks what it takes for
  # a folder by an object NAME_$folder$.
  statement {
    sid       = "WriteTables"
    actions   = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"]
    resources = [for place in local.written : "${var.lake.bucket_arn}/${place}"]
  }

  statement {
    sid       = "WriteLog"
    actions   = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]
    resources = flatten([for group in local.log_groups : ["${local.logs_arn}:${group}", "${local.logs_arn}:${group}:log-stream:*"]])
  }

  dynamic "statement" {
    for_each = var.lake.kms_key_arn == null ? [] : [var.lake.kms_key_arn]

    content {
      sid       = "UseKey"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "job" {
  name               = local.job_name
  description        = "What the Glue job ${local.job_name} may do."
  assume_role_policy = data.aws_iam_policy_document.trust.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "job" {
  name   = "layers"
  role   = aws_iam_role.job.name
  policy = data.aws_iam_policy_document.job.json
}
