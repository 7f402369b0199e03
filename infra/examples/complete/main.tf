# Everything: a lake with its layers, a stream that keeps what arrived, alarms.

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = var.name }
  }
}

module "lake" {
  source = "../../modules/lake"

  name                = var.name
  kms_key_arn         = var.kms_key_arn
  raw_retention_days  = var.raw_retention_days
  partition_discovery = var.partition_discovery
  force_destroy       = var.force_destroy
}

module "ingest" {
  source = "../../modules/ingest"

  name          = var.name
  lake          = module.lake
  partitioning  = var.partitioning
  source_backup = true
}

module "device" {
  source = "../../modules/device-iam"

  name       = var.name
  stream_arn = module.ingest.stream_arn
  trust      = var.trust
}

module "layers" {
  source = "../../modules/layers"

  name = var.name
  lake = module.lake
}

module "observability" {
  source = "../../modules/observability"

  name                  = var.name
  stream_name           = module.ingest.stream_name
  stream_log_group_name = module.ingest.log_group_name
  job_log_group_name    = module.layers.output_log_group_name
  emails                = var.emails
  budget_usd            = var.budget_usd
}
