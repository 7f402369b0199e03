# Whom alarms tell. CloudWatch alone may publish, in the name of this module's alarms.

locals {
  make_topic = var.alarm_topic_arn == null
  make_key   = local.make_topic && var.topic_kms_key_id == null
  topic_arn  = local.make_topic ? "arn:${local.partition}:sns:${local.region}:${local.account}:${var.name}-alarms" : var.alarm_topic_arn

  from_alarms = {
    StringEquals = { "aws:SourceAccount" = local.account }
    ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:cloudwatch:${local.region}:${local.account}:alarm:${var.name}-*" }
  }
}

# AWS's own key for SNS lets no alarm use it, and its policy cannot be changed.
resource "aws_kms_key" "topic" {
  count = local.make_key ? 1 : 0

  description         = "Topic ${var.name}-alarms"
  enable_key_rotation = true
  tags                = var.tags

  # In a key's policy the resource "*" is the key.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        # Whom the account's own policies allow it: who applies and destroys this.
        Sid       = "Administration"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
        Action = [
          "kms:CancelKeyDeletion",
          "kms:DescribeKey",
          "kms:DisableKey",
          "kms:DisableKeyRotation",
          "kms:EnableKey",
          "kms:EnableKeyRotation",
          "kms:GetKeyPolicy",
          "kms:GetKeyRotationStatus",
          "kms:ListResourceTags",
          "kms:PutKeyPolicy",
          "kms:ScheduleKeyDeletion",
          "kms:TagResource",
          "kms:UntagResource",
          "kms:UpdateKeyDescription",
        ]
        Resource = "*"
      },
      {
        Sid       = "Alarms"
        Effect    = "Allow"
        Principal = { Service = "cloudwatch.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = "*"
        Condition = local.from_alarms
      },
    ]
  })
}

resource "aws_sns_topic" "alarms" {
  count = local.make_topic ? 1 : 0

  name              = "${var.name}-alarms"
  kms_master_key_id = local.make_key ? aws_kms_key.topic[0].arn : var.topic_kms_key_id
  tags              = var.tags
}

resource "aws_sns_topic_policy" "alarms" {
  count = local.make_topic ? 1 : 0

  arn = aws_sns_topic.alarms[0].arn

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Alarms"
      Effect    = "Allow"
      Action    = "sns:Publish"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Resource  = local.topic_arn
      Condition = local.from_alarms
    }]
  })
}

resource "aws_sns_topic_subscription" "email" {
  for_each = local.make_topic ? toset(var.emails) : toset([])

  topic_arn = aws_sns_topic.alarms[0].arn
  protocol  = "email"
  endpoint  = each.key
}
