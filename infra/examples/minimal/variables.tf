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

variable "bucket_name" {
  description = "Name of the bucket; null makes it name-ACCOUNT-REGION."
  type        = string
  default     = null
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

variable "create_access_key" {
  description = "Whether to make a long-lived key for a device that has nothing better."
  type        = bool
  default     = false
}
