# A lake, a stream that fills it, and a role for devices.

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = var.name }
  }
}

module "lake" {
  source = "../../modules/lake"

  name          = var.name
  bucket_name   = var.bucket_name
  force_destroy = var.force_destroy
}

module "ingest" {
  source = "../../modules/ingest"

  name           = var.name
  lake           = module.lake
  buffer_seconds = 60
}

module "device" {
  source = "../../modules/device-iam"

  name              = var.name
  stream_arn        = module.ingest.stream_arn
  trust             = var.trust
  create_access_key = var.create_access_key
}
