data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  bucket_name = coalesce(var.bucket_name, "${var.name}-${local.account}-${local.region}")
  # Put together from names, so that a plan shows whole policies before anything is there.
  bucket_arn   = "arn:${local.partition}:s3:::${local.bucket_name}"
  glue_arn     = "arn:${local.partition}:glue:${local.region}:${local.account}"
  catalog_arn  = "${local.glue_arn}:catalog"
  database     = replace(var.name, "-", "_")
  database_arn = "${local.glue_arn}:database/${local.database}"
  table        = "raw"
  table_arn    = "${local.glue_arn}:table/${local.database}/${local.table}"

  regions = jsondecode(file("${path.module}/regions.json")).regions
}

resource "aws_s3_bucket" "lake" {
  # checkov:skip=CKV_AWS_18: who reads objects is CloudTrail's business; an access log here would need a second bucket for every lake
  # checkov:skip=CKV_AWS_144: a copy in another region doubles the cost, and the agent's rows can be copied later by those who need it
  # checkov:skip=CKV_AWS_145: kms_key_arn chooses a KMS key; without one S3 encrypts with its own
  # checkov:skip=CKV2_AWS_62: nothing here waits for objects; the ETL job is started by the clock
  bucket        = local.bucket_name
  force_destroy = var.force_destroy
  tags          = var.tags

  lifecycle {
    precondition {
      condition     = var.allow_unlisted_region || contains(local.regions, local.region)
      error_message = "Region ${local.region} is not known to have Amazon Data Firehose, AWS Glue and Amazon Athena (regions.json of the module lake). Choose another, or set allow_unlisted_region = true if AWS has opened them there."
    }
    precondition {
      condition     = length(local.bucket_name) <= 63
      error_message = "The bucket's name ${local.bucket_name} has more than the 63 characters that S3 takes. Choose a shorter name or set bucket_name."
    }
    precondition {
      condition     = var.kms_key_arn == null || try(split(":", var.kms_key_arn)[3] == local.region, false)
      error_message = "The key of kms_key_arn is in another region than the lake (${local.region}), where S3 cannot use it."
    }
  }
}

resource "aws_s3_bucket_public_access_block" "lake" {
  bucket                  = aws_s3_bucket.lake.bucket
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "lake" {
  bucket = aws_s3_bucket.lake.bucket

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "lake" {
  bucket = aws_s3_bucket.lake.bucket

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "lake" {
  bucket = aws_s3_bucket.lake.bucket

  rule {
    # One call to KMS for many objects; without a key of KMS it means nothing.
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_policy" "lake" {
  bucket = aws_s3_bucket.lake.bucket

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "OnlyTLS"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [local.bucket_arn, "${local.bucket_arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })

  depends_on = [aws_s3_bucket_public_access_block.lake]
}

locals {
  expiring = merge(
    {
      "errors/"         = var.error_retention_days
      "quarantine/"     = var.error_retention_days
      "backup/"         = var.error_retention_days
      "athena-results/" = 7
    },
    var.raw_retention_days == null ? {} : { "data/" = var.raw_retention_days },
  )
}

resource "aws_s3_bucket_lifecycle_configuration" "lake" {
  bucket = aws_s3_bucket.lake.bucket

  rule {
    id     = "unfinished-and-replaced"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }

    noncurrent_version_expiration {
      noncurrent_days = 7
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  dynamic "rule" {
    for_each = local.expiring

    content {
      id     = "expire-${trimsuffix(rule.key, "/")}"
      status = "Enabled"

      filter {
        prefix = rule.key
      }

      expiration {
        days = rule.value
      }
    }
  }

  # S3 wants to know of versions before it takes a rule about them.
  depends_on = [aws_s3_bucket_versioning.lake]
}
