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
      values   = [local.job_arn]
    }
  }
}

data "aws_iam_policy_document" "job" {
  statement {
    sid       = "FindObjects"
    actions   = ["s3:ListBucket"]
    resources = [var.lake.bucket_arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["data/*", "processed/*", "trusted/*", "quarantine/*", "etl/*"]
    }
  }

  statement {
    sid       = "ReadRawRows"
    actions   = ["s3:GetObject"]
    resources = ["${var.lake.bucket_arn}/data/*"]
  }

  statement {
    sid     = "WriteTables"
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = [
      "${var.lake.bucket_arn}/processed/*",
      "${var.lake.bucket_arn}/trusted/*",
      "${var.lake.bucket_arn}/quarantine/*",
      "${var.lake.bucket_arn}/etl/*",
    ]
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
