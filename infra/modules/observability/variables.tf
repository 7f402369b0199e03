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

variable "stream_name" {
  description = "Name of the delivery stream to watch."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]{1,64}$", var.stream_name))
    error_message = "stream_name is the name of a delivery stream, not its ARN: 1 to 64 of the characters A-Z, a-z, 0-9, _, . and -."
  }
}

variable "stream_log_group_name" {
  description = "Name of the log group with the stream's errors; null: no alarm on them."
  type        = string
  default     = null
}

variable "job_log_group_name" {
  description = "Name of the log group that has what the layers' job says; null: no alarm on the job."
  type        = string
  default     = null
}

variable "job_hours" {
  description = "Hours without a finished run of the job that are an alarm. Longer than its schedule's longest pause by a run's time at least."
  type        = number
  default     = 26

  validation {
    condition     = var.job_hours >= 2 && var.job_hours <= 168 && floor(var.job_hours) == var.job_hours
    error_message = "job_hours is a whole number from 2 to 168 (a week, the longest that CloudWatch looks back)."
  }
}

variable "alarm_topic_arn" {
  description = "ARN of the SNS topic that alarms go to; null makes one."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_topic_arn == null || can(regex("^arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+$", var.alarm_topic_arn))
    error_message = "alarm_topic_arn is the ARN of an SNS topic (arn:aws:sns:REGION:ACCOUNT:NAME)."
  }
}

variable "topic_kms_key_id" {
  description = "Key that encrypts the topic, one that CloudWatch may use; null makes one."
  type        = string
  default     = null

  validation {
    condition     = var.topic_kms_key_id == null || can(regex("^(arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/|alias/)?[A-Za-z0-9/_-]+$", var.topic_kms_key_id))
    error_message = "topic_kms_key_id is a key's id, its alias (alias/NAME), or the ARN of either."
  }

  validation {
    condition     = !try(strcontains(var.topic_kms_key_id, "alias/aws/"), false)
    error_message = "topic_kms_key_id names a key of AWS's own, which lets no alarm publish. Leave it null, or name a key of yours."
  }
}

variable "emails" {
  description = "Addresses that are told of the budget and, by the topic that the module makes, of alarms. For the alarms, each is asked by AWS to confirm."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.emails : can(regex("^[^@ ]+@[^@ ]+$", address))])
    error_message = "emails are addresses such as ops@example.org."
  }
}

variable "freshness_seconds" {
  description = "Age of the oldest row not yet in S3 that is too old; twice the stream's buffer_seconds at least."
  type        = number
  default     = 900

  validation {
    condition     = var.freshness_seconds >= 120 && floor(var.freshness_seconds) == var.freshness_seconds
    error_message = "freshness_seconds is a whole number from 120 on: Firehose waits a minute at least before it writes."
  }
}

variable "silent_minutes" {
  description = "Minutes without a record from any device that are an alarm; null: never. Longer than the agents' send.interval."
  type        = number
  default     = 30

  validation {
    condition     = var.silent_minutes == null || try(var.silent_minutes >= 5 && var.silent_minutes <= 1440, false)
    error_message = "silent_minutes is 5 to 1440 (a day, the longest that CloudWatch looks back), or null."
  }
}

variable "dashboard" {
  description = "Whether to make a dashboard of the stream."
  type        = bool
  default     = true
}

variable "budget_usd" {
  description = "USD a month of which 80 % spent, or 100 % forecast, is told by mail; null: no budget."
  type        = number
  default     = null

  validation {
    condition     = var.budget_usd == null || try(var.budget_usd > 0, false)
    error_message = "budget_usd is more than 0, or null for no budget."
  }
}

variable "budget_tag" {
  description = "Cost allocation tag that the budget is limited to; null: the whole account."
  type        = object({ key = string, value = string })
  default     = null

  validation {
    condition = var.budget_tag == null || try(
      can(regex("^[\\p{L}\\p{N} _.:/=+@-]{1,128}$", var.budget_tag.key))
      && can(regex("^[\\p{L}\\p{N} _.:/=+@-]{0,256}$", var.budget_tag.value))
      && !startswith(var.budget_tag.key, "aws:"),
      false
    )
    error_message = "budget_tag is a tag of yours, { key = \"project\", value = \"iot\" }: letters, digits, spaces and _.:/=+@-, at most 128 and 256 of them; keys that begin with aws: are AWS's own."
  }
}
