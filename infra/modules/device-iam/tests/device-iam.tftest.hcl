# What a device may do, and what the module refuses in words.

mock_provider "aws" {}

variables {
  name       = "iot-agent"
  stream_arn = "arn:aws:firehose:eu-west-1:123456789012:deliverystream/iot-telemetry"
}

run "instances" {
  command = plan

  assert {
    condition     = length(aws_iam_user.device) == 0 && length(aws_iam_access_key.device) == 0
    error_message = "No key unless it is asked for."
  }

  assert {
    condition     = [for statement in jsondecode(aws_iam_role.device.assume_role_policy).Statement : statement.Principal.Service] == ["ec2.amazonaws.com"]
    error_message = "Instances, and nobody else."
  }
}

run "certificates" {
  command = plan

  variables {
    trust = { roles_anywhere_trust_anchor_arn = "arn:aws:rolesanywhere:eu-west-1:123456789012:trust-anchor/11111111-2222-3333-4444-555555555555" }
  }

  assert {
    condition     = jsondecode(aws_iam_role.device.assume_role_policy).Statement[0].Condition.ArnEquals["aws:SourceArn"] == var.trust.roles_anywhere_trust_anchor_arn
    error_message = "Certificates of this authority only."
  }
}

run "key" {
  command = plan

  variables {
    create_access_key = true
  }

  assert {
    condition     = aws_ssm_parameter.key[0].type == "SecureString" && aws_iam_user_policy.device[0].policy == output.policy_json
    error_message = "The key opens what the role does, and lies encrypted."
  }
}

run "nobody" {
  command = plan

  variables {
    trust = {}
  }

  expect_failures = [var.trust]
}

run "a_whole_account" {
  command = plan

  variables {
    trust = { principal_arns = ["arn:aws:iam::123456789012:root"] }
  }

  expect_failures = [var.trust]
}

run "any_principal" {
  command = plan

  variables {
    trust = { principal_arns = ["*"] }
  }

  expect_failures = [var.trust]
}

run "any_stream" {
  command = plan

  variables {
    stream_arn = "arn:aws:firehose:eu-west-1:123456789012:deliverystream/*"
  }

  expect_failures = [var.stream_arn]
}
