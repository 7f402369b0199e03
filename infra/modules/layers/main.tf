data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  job_name = "${var.name}-layers"
  # Glue writes what Spark says to one group behind this prefix, and what the job says to the other.
  log_prefix = "/aws-glue/jobs/${local.job_name}"
  log_groups = toset(["${local.log_prefix}/error", "${local.log_prefix}/output"])
  logs_arn   = "arn:${local.partition}:logs:${local.region}:${local.account}:log-group"

  etl     = "${path.module}/../../etl"
  modules = sort([for file in fileset(local.etl, "layers_*.py") : file])
  files = merge(
    { for file in concat(local.modules, ["glue_job.py", "tables.json"]) : file => "${local.etl}/${file}" },
    { "sample.json" = "${path.module}/../../schema/sample.json" },
  )
  place = "s3://${var.lake.bucket_name}/etl"
}

resource "aws_s3_object" "etl" {
  for_each = local.files

  bucket      = var.lake.bucket_name
  key         = "etl/${each.key}"
  source      = each.value
  source_hash = filemd5(each.value)
  tags        = var.tags
}

resource "aws_cloudwatch_log_group" "job" {
  # checkov:skip=CKV_AWS_158: the log names objects and dates and holds no readings; CloudWatch encrypts it with its own key
  # checkov:skip=CKV_AWS_338: a month is enough to find out why a run failed; log_retention_days is longer where that is wanted
  for_each = local.log_groups

  name              = each.key
  retention_in_days = var.log_retention_days
  tags              = var.tags
}

resource "aws_glue_job" "layers" {
  # checkov:skip=CKV_AWS_195: the bucket encrypts what the job writes, and its log holds no readings
  name              = local.job_name
  description       = "Raw rows to processed and trusted tables."
  role_arn          = aws_iam_role.job.arn
  glue_version      = "5.0"
  worker_type       = var.worker_type
  number_of_workers = var.workers
  timeout           = var.timeout_minutes
  # The next run takes in what a failed one has not.
  max_retries = 0
  tags        = var.tags

  command {
    script_location = "${local.place}/glue_job.py"
    python_version  = "3"
  }

  # Two runs at once would commit over each other.
  execution_property {
    max_concurrent_runs = 1
  }

  default_arguments = {
    "--lake_bucket"            = var.lake.bucket_name
    "--batch"                  = tostring(var.batch)
    "--buckets"                = tostring(var.files_a_date)
    "--extra-py-files"         = join(",", [for file in local.modules : "${local.place}/${file}"])
    "--extra-files"            = "${local.place}/sample.json,${local.place}/tables.json"
    "--TempDir"                = "${local.place}/temporary/"
    "--job-bookmark-option"    = "job-bookmark-disable"
    "--custom-logGroup-prefix" = local.log_prefix
  }

  depends_on = [aws_s3_object.etl, aws_iam_role_policy.job]
}

resource "aws_glue_trigger" "layers" {
  count = var.schedule == null ? 0 : 1

  name              = local.job_name
  description       = "Starts ${local.job_name}."
  type              = "SCHEDULED"
  schedule          = var.schedule
  start_on_creation = true
  tags              = var.tags

  actions {
    job_name = aws_glue_job.layers.name
  }
}
