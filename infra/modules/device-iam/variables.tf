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

variable "stream_arn" {
  description = "ARN of the one delivery stream."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:firehose:[a-z0-9-]+:[0-9]{12}:deliverystream/[A-Za-z0-9_.-]{1,64}$", var.stream_arn))
    error_message = "stream_arn is the ARN of one delivery stream (arn:aws:firehose:REGION:ACCOUNT:deliverystream/NAME), without wildcards."
  }
}

variable "trust" {
  description = "Who may take the role on: EC2 instances (by an instance profile of yours), certificates of an IAM Roles Anywhere trust anchor, roles and users by their ARNs."
  type = object({
    ec2                             = optional(bool, false)
    roles_anywhere_trust_anchor_arn = optional(string)
    principal_arns                  = optional(list(string), [])
  })
  default = { ec2 = true }

  validation {
    condition     = var.trust.ec2 || var.trust.roles_anywhere_trust_anchor_arn != null || length(var.trust.principal_arns) > 0
    error_message = "trust names nobody who may take the role on: set ec2 = true, roles_anywhere_trust_anchor_arn or principal_arns."
  }

  validation {
    condition     = var.trust.roles_anywhere_trust_anchor_arn == null || can(regex("^arn:[a-z-]+:rolesanywhere:[a-z0-9-]+:[0-9]{12}:trust-anchor/[0-9a-f-]{36}$", var.trust.roles_anywhere_trust_anchor_arn))
    error_message = "roles_anywhere_trust_anchor_arn is the ARN of a trust anchor (arn:aws:rolesanywhere:REGION:ACCOUNT:trust-anchor/ID)."
  }

  validation {
    condition     = alltrue([for arn in var.trust.principal_arns : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/[A-Za-z0-9+=,.@_/-]+$", arn))])
    error_message = "principal_arns are ARNs of roles or users (arn:aws:iam::ACCOUNT:role/NAME): no wildcard, and no whole account."
  }
}

variable "create_access_key" {
  description = "Whether to make a user with a long-lived key for a device that has nothing better. The key is in Terraform's state and in an SSM parameter, and is not printed."
  type        = bool
  default     = false
}
