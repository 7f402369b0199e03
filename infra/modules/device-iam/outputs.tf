output "role_arn" {
  description = "ARN of the device's role: sink.firehose.role_arn, where the device takes it on itself."
  value       = aws_iam_role.device.arn
}

output "role_name" {
  description = "Name of the device's role."
  value       = aws_iam_role.device.name
}

output "policy_arn" {
  description = "ARN of the policy, for roles and users that are there already."
  value       = aws_iam_policy.device.arn
}

output "policy_json" {
  description = "The policy itself."
  value       = local.policy
}

output "key_parameter_name" {
  description = "Name of the SSM parameter with the credentials file; null without create_access_key."
  value       = one(aws_ssm_parameter.key[*].name)
}
