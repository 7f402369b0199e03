output "agent_toml" {
  description = "What goes into /etc/iot-agent.toml in place of its [sink]."
  value       = <<-EOT
    [sink]
    kind = "firehose"

    [sink.firehose]
    stream = "${module.ingest.stream_name}"
    region = "${var.region}"
  EOT
}

output "bucket_name" {
  description = "Where the rows are."
  value       = module.lake.bucket_name
}

output "workgroup_name" {
  description = "The Athena workgroup with the saved queries."
  value       = module.lake.workgroup_name
}

output "device_role_arn" {
  description = "The device's role: sink.firehose.role_arn, where the device takes it on itself."
  value       = module.device.role_arn
}

output "job_name" {
  description = "The Glue job of the layers."
  value       = module.layers.job_name
}

output "alarm_topic_arn" {
  description = "The topic that alarms go to."
  value       = module.observability.topic_arn
}
