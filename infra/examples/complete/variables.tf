variable "name" {
  description = "Prefix of every name, and the name of the delivery stream."
  type        = string
  default     = "iot-telemetry"
}

variable "region" {
  description = "AWS region."
  type        = string
  default     = "eu-west-1"
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that encrypts the lake; null is S3's own encryption."
  type        = string
  default     = null
}

variable "raw_retention_days" {
  description = "Days after which raw rows are deleted, once the layers have them; null keeps them."
  type        = number
  default     = 365
}

variable "partition_discovery" {
  description = "projection or crawler: see the module lake."
  type        = string
  default     = "projection"
}

variable "partitioning" {
  description = "timestamp_sent or arrival: see the module ingest."
  type        = string
  default     = "timestamp_sent"
}

variable "force_destroy" {
  description = "Whether terraform destroy deletes the data too."
  type        = bool
  default     = false
}

variable "trust" {
  description = "Who may take the device's role on: see the module device-iam."
  type = object({
    ec2                             = optional(bool, false)
    roles_anywhere_trust_anchor_arn = optional(string)
    principal_arns                  = optional(list(string), [])
  })
  default = { ec2 = true }
}

variable "emails" {
  description = "Addresses that are told of alarms and of the budget."
  type        = list(string)
  default     = []
}

variable "budget_usd" {
  description = "USD a month that are too much; null: no budget. It needs an address in emails."
  type        = number
  default     = null
}
