resource "aws_glue_crawler" "raw" {
  # checkov:skip=CKV_AWS_195: a security configuration encrypts bookmarks and logs; this crawler has no bookmark, and its log names folders only
  count = local.by_crawler ? 1 : 0

  name          = "${var.name}-raw"
  description   = "Tells the catalog of new hours, and changes nothing else."
  role          = aws_iam_role.crawler[0].arn
  database_name = aws_glue_catalog_database.lake.name
  schedule      = var.crawler_schedule
  tags          = var.tags

  # The table that is there, so that no other is invented after a folder's name.
  catalog_target {
    database_name = aws_glue_catalog_database.lake.name
    tables        = [aws_glue_catalog_table.raw.name]
  }

  # New partitions are made whatever this says; columns and types stay as they are.
  schema_change_policy {
    update_behavior = "LOG"
    delete_behavior = "LOG"
  }

  configuration = jsonencode({
    Version = 1.0
    CrawlerOutput = {
      # A partition's columns are those of the table, not those guessed from its files.
      Partitions = { AddOrUpdateBehavior = "InheritFromTable" }
    }
    # One table for all folders: without it one that looks different becomes a table
    # or a partition key of its own, partition_0.
    Grouping = { TableGroupingPolicy = "CombineCompatibleSchemas" }
  })

  depends_on = [aws_iam_role_policy.crawler]
}

resource "aws_iam_role" "crawler" {
  count = local.by_crawler ? 1 : 0

  name        = "${var.name}-crawler"
  description = "Lists the lake's raw folders and enters them into its table."
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Glue"
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "glue.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "${local.glue_arn}:*" }
      }
    }]
  })
}

locals {
  crawler_logs = "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/aws-glue/crawlers"
  crawler_statements = [
    {
      Sid      = "Table"
      Effect   = "Allow"
      Action   = ["glue:GetDatabase", "glue:GetTable", "glue:UpdateTable"]
      Resource = [local.catalog_arn, local.database_arn, local.table_arn]
    },
    {
      Sid      = "Partitions"
      Effect   = "Allow"
      Action   = ["glue:BatchCreatePartition", "glue:BatchGetPartition", "glue:CreatePartition", "glue:GetPartition", "glue:GetPartitions", "glue:UpdatePartition"]
      Resource = [local.catalog_arn, local.database_arn, local.table_arn]
    },
    {
      Sid       = "List"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = [local.bucket_arn]
      Condition = { StringLike = { "s3:prefix" = ["data/*"] } }
    },
    {
      Sid      = "Location"
      Effect   = "Allow"
      Action   = ["s3:GetBucketLocation"]
      Resource = [local.bucket_arn]
    },
    {
      Sid      = "Read"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = ["${local.bucket_arn}/data/*"]
    },
    {
      Sid      = "Log"
      Effect   = "Allow"
      Action   = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = [local.crawler_logs, "${local.crawler_logs}:log-stream:*"]
    },
  ]
  crawler_key_statements = var.kms_key_arn == null ? [] : [{
    Sid       = "Decrypt"
    Effect    = "Allow"
    Action    = ["kms:Decrypt"]
    Resource  = [var.kms_key_arn]
    Condition = { StringEquals = { "kms:ViaService" = "s3.${local.region}.amazonaws.com" } }
  }]
}

resource "aws_iam_role_policy" "crawler" {
  count = local.by_crawler ? 1 : 0

  name = "crawl"
  role = aws_iam_role.crawler[0].name

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat(local.crawler_statements, local.crawler_key_statements)
  })
}
