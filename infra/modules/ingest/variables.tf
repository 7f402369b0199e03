variable "name" {
  description = "Name of the delivery stream, and prefix of every other name that the module gives."
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
  description = "Where the rows go: the module lake."
  type = object({
    bucket_arn     = string
    kms_key_arn    = optional(string)
    catalog_arn    = string
    database_name  = string
    database_arn   = string
    raw_table_name = string
    raw_table_arn  = string
  })
}

variable "partitioning" {
  description = "timestamp_sent: the hour that each row names, by dynamic partitioning. arrival: the hour in which Firehose got it, which is cheaper, and for a batch that crosses the full hour another one than the row names."
  type        = string
  default     = "timestamp_sent"

  validation {
    condition     = contains(["timestamp_sent", "arrival"], var.partitioning)
    error_message = "partitioning is timestamp_sent or arrival."
  }
}

variable "buffer_mib" {
  description = "MiB after which an object is written."
  type        = number
  default     = 128

  validation {
    condition     = var.buffer_mib >= 64 && var.buffer_mib <= 128 && floor(var.buffer_mib) == var.buffer_mib
    error_message = "buffer_mib is a whole number from 64 to 128: Firehose takes no less where it makes Parquet."
  }
}

variable "buffer_seconds" {
  description = "Seconds after which an object is written, however small."
  type        = number
  default     = 300

  validation {
    condition     = var.buffer_seconds >= 60 && var.buffer_seconds <= 900 && floor(var.buffer_seconds) == var.buffer_seconds
    error_message = "buffer_seconds is a whole number from 60 to 900. Less makes many small objects, which are dear to read, and Firehose takes no less where it partitions."
  }
}

variable "source_backup" {
  description = "Whether everything is also kept as it arrived, as JSON, under backup/."
  type        = bool
  default     = false
}

variable "log_retention_days" {
  description = "Days that Firehose's error log is kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days is one of the numbers that CloudWatch Logs takes: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, …"
  }
}
