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

variable "lake" {
  description = "Where the raw rows lie: outputs of the module lake."
  type = object({
    bucket_name   = string
    bucket_arn    = string
    kms_key_arn   = optional(string)
    database_name = string
  })
}

variable "schedule" {
  description = "When the job runs, UTC, as cron(MINUTE HOUR DAY MONTH WEEKDAY YEAR); null: only when it is started by hand."
  type        = string
  default     = "cron(20 1 * * ? *)"

  validation {
    condition     = var.schedule == null || can(regex("^cron\\([^ ()]+( [^ ()]+){5}\\)$", var.schedule))
    error_message = "schedule is cron(…) with six fields: minute, hour, day, month, weekday, year; for example cron(20 1 * * ? *). null runs the job by hand only."
  }
}

variable "worker_type" {
  description = "Size of the job's workers: G.1X has 4 processors and 16 GB, G.2X twice that."
  type        = string
  default     = "G.1X"

  validation {
    condition     = contains(["G.1X", "G.2X", "G.4X", "G.8X"], var.worker_type)
    error_message = "worker_type is G.1X, G.2X, G.4X or G.8X."
  }
}

variable "workers" {
  description = "How many workers, the driver included."
  type        = number
  default     = 2

  validation {
    condition     = var.workers == floor(var.workers) && var.workers >= 2 && var.workers <= 100
    error_message = "workers is a whole number from 2 (a driver and one that works) to 100."
  }
}

variable "timeout_minutes" {
  description = "How long a run may take before it is ended."
  type        = number
  default     = 120

  validation {
    condition     = var.timeout_minutes == floor(var.timeout_minutes) && var.timeout_minutes >= 1 && var.timeout_minutes <= 1440
    error_message = "timeout_minutes is a whole number from 1 to 1440."
  }
}

variable "batch" {
  description = "Raw objects that a commit takes in at most."
  type        = number
  default     = 20000

  validation {
    condition     = var.batch == floor(var.batch) && var.batch >= 1
    error_message = "batch is a whole number from 1."
  }
}

variable "files_a_date" {
  description = "Files that an event date is written as; more of them for fleets whose day is larger than some GB."
  type        = number
  default     = 1

  validation {
    condition     = var.files_a_date == floor(var.files_a_date) && var.files_a_date >= 1 && var.files_a_date <= 1000
    error_message = "files_a_date is a whole number from 1 to 1000."
  }
}

variable "first_date" {
  description = "First event date that queries look for, as yyyy-MM-dd."
  type        = string
  default     = "2020-01-01"

  validation {
    condition     = can(regex("^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$", var.first_date))
    error_message = "first_date is a date as yyyy-MM-dd, for example 2026-01-01."
  }
}

variable "log_retention_days" {
  description = "Days that the job's log is kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days is one of the numbers that CloudWatch Logs takes: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, …"
  }
}
