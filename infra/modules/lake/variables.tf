variable "name" {
  description = "Prefix of every name that the module gives."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "name has 2 to 31 of the characters a-z, 0-9 and -, the first a letter, for example iot-agent."
  }
}

variable "tags" {
  description = "Tags of everything that takes tags."
  type        = map(string)
  default     = {}
}

variable "bucket_name" {
  description = "Name of the bucket; null makes it name-ACCOUNT-REGION, which nobody else is likely to have."
  type        = string
  default     = null

  validation {
    condition     = var.bucket_name == null || can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name has 3 to 63 of the characters a-z, 0-9 and -, and begins and ends with a letter or digit. S3 would take dots too, but its certificate covers no name with them."
  }
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that encrypts the bucket and Athena's results; null is S3's own encryption (SSE-S3)."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.kms_key_arn))
    error_message = "kms_key_arn is the ARN of a key (arn:aws:kms:REGION:ACCOUNT:key/ID), not its id and not an alias."
  }
}

variable "schema_file" {
  description = "Path of the schema file that gives the table its columns; null is the one of this repository."
  type        = string
  default     = null
}

variable "raw_start" {
  description = "First hour, UTC, that queries look for, as yyyy-MM-dd HH. Rows that were sent before it are not seen."
  type        = string
  default     = "2026-01-01 00"

  validation {
    condition     = can(regex("^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01]) ([01][0-9]|2[0-3])$", var.raw_start))
    error_message = "raw_start is an hour as yyyy-MM-dd HH, for example 2026-01-01 00."
  }
}

variable "raw_retention_days" {
  description = "Days after which raw rows are deleted; null keeps them for ever."
  type        = number
  default     = null

  validation {
    condition     = var.raw_retention_days == null || try(var.raw_retention_days >= 1 && floor(var.raw_retention_days) == var.raw_retention_days, false)
    error_message = "raw_retention_days is a whole number of days from 1 on, or null to keep raw rows for ever. Zero would delete what has just arrived."
  }
}

variable "error_retention_days" {
  description = "Days after which errors/, quarantine/ and backup/ are deleted."
  type        = number
  default     = 90

  validation {
    condition     = var.error_retention_days >= 1 && floor(var.error_retention_days) == var.error_retention_days
    error_message = "error_retention_days is a whole number of days from 1 on: what failed needs a day at least to be looked at."
  }
}

variable "athena_bytes_limit" {
  description = "Bytes that one query may scan before Athena ends it."
  type        = number
  default     = 10737418240

  validation {
    condition     = var.athena_bytes_limit >= 10000000 && floor(var.athena_bytes_limit) == var.athena_bytes_limit
    error_message = "athena_bytes_limit is a whole number of bytes, 10000000 (10 MB) or more: Athena takes no less."
  }
}

variable "partition_discovery" {
  description = "How Athena learns of new hours: projection (at once, nothing runs) or crawler (by an hourly AWS Glue crawler)."
  type        = string
  default     = "projection"

  validation {
    condition     = contains(["projection", "crawler"], var.partition_discovery)
    error_message = "partition_discovery is projection or crawler."
  }
}

variable "crawler_schedule" {
  description = "When the crawler runs, where there is one: an AWS cron expression, UTC."
  type        = string
  default     = "cron(20 * * * ? *)"

  validation {
    condition     = can(regex("^cron\\([^ )]+( [^ )]+){5}\\)$", var.crawler_schedule))
    error_message = "crawler_schedule is an AWS cron expression of six fields, for example cron(20 * * * ? *)."
  }
}

variable "force_destroy" {
  description = "Whether terraform destroy deletes a bucket that still holds data, and saved queries."
  type        = bool
  default     = false
}

variable "allow_unlisted_region" {
  description = "Whether to go on in a region that regions.json does not name."
  type        = bool
  default     = false
}
