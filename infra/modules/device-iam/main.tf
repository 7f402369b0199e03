locals {
  stream_parts = split(":", var.stream_arn)

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "Deliver"
      Effect   = "Allow"
      Action   = ["firehose:DescribeDeliveryStream", "firehose:PutRecordBatch"]
      Resource = [var.stream_arn]
    }]
  })

  # EC2 says nothing of the account or the instance when it takes a role on: which
  # instances may is decided by iam:PassRole of those who start them.
  by_instance = !var.trust.ec2 ? [] : [{
    Sid       = "Instances"
    Effect    = "Allow"
    Action    = ["sts:AssumeRole"]
    Principal = { Service = "ec2.amazonaws.com" }
  }]
  by_certificate = var.trust.roles_anywhere_trust_anchor_arn == null ? [] : [{
    Sid       = "Certificates"
    Effect    = "Allow"
    Action    = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"]
    Principal = { Service = "rolesanywhere.amazonaws.com" }
    # Its ARN has the account.
    Condition = { ArnEquals = { "aws:SourceArn" = var.trust.roles_anywhere_trust_anchor_arn } }
  }]
  by_principal = length(var.trust.principal_arns) == 0 ? [] : [{
    Sid       = "Principals"
    Effect    = "Allow"
    Action    = ["sts:AssumeRole"]
    Principal = { AWS = sort(var.trust.principal_arns) }
  }]
}

resource "aws_iam_policy" "device" {
  name        = "${var.name}-device"
  description = "Delivers to ${local.stream_parts[5]}, and nothing else."
  policy      = local.policy
  tags        = var.tags
}

resource "aws_iam_role" "device" {
  name        = "${var.name}-device"
  description = "What a device may do: deliver to ${local.stream_parts[5]}."
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat(local.by_instance, local.by_certificate, local.by_principal)
  })
}

resource "aws_iam_role_policy_attachment" "device" {
  role       = aws_iam_role.device.name
  policy_arn = aws_iam_policy.device.arn
}

# A key for a device that has nothing better. It does not expire: whoever reads it,
# or Terraform's state, can deliver to the stream until it is deleted.
resource "aws_iam_user" "device" {
  # checkov:skip=CKV_AWS_273: a device is no person that could sign in
  count = var.create_access_key ? 1 : 0

  name          = "${var.name}-device"
  force_destroy = true
  tags          = var.tags
}

resource "aws_iam_user_policy" "device" {
  # checkov:skip=CKV_AWS_40: the user is one device, and a group of one says no more
  count = var.create_access_key ? 1 : 0

  name   = "deliver"
  user   = aws_iam_user.device[0].name
  policy = local.policy
}

resource "aws_iam_access_key" "device" {
  count = var.create_access_key ? 1 : 0

  user = aws_iam_user.device[0].name
}

resource "aws_ssm_parameter" "key" {
  # checkov:skip=CKV_AWS_337: the account's own key for parameters guards it; what it opens is one stream, for writing
  count = var.create_access_key ? 1 : 0

  name        = "/${var.name}/device/credentials"
  description = "What goes into /etc/iot-agent.credentials."
  type        = "SecureString"
  tags        = var.tags

  value = <<-EOT
    [default]
    aws_access_key_id = ${aws_iam_access_key.device[0].id}
    aws_secret_access_key = ${aws_iam_access_key.device[0].secret}
  EOT
}
