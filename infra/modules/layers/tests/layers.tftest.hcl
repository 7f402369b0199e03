# What the module plans, held to infra/schema/sample.json and to what the job needs.

mock_provider "aws" {
  override_data {
    target = data.aws_caller_identity.current
    values = { account_id = "123456789012" }
  }

  override_data {
    target = data.aws_partition.current
    values = { partition = "aws" }
  }

  override_data {
    target = data.aws_region.current
    values = { region = "eu-west-1" }
  }

  # A mock makes up what no provider computes: the documents are held by their statements below.
  override_data {
    target = data.aws_iam_policy_document.trust
    values = { json = "{}" }
  }

  override_data {
    target = data.aws_iam_policy_document.job
    values = { json = "{}" }
  }
}

variables {
  name = "iot-agent"
  lake = {
    bucket_name   = "iot-lake"
    bucket_arn    = "arn:aws:s3:::iot-lake"
    database_name = "iot"
  }
}

run "job" {
  command = plan

  assert {
    condition     = aws_glue_job.layers.glue_version == "5.0" && aws_glue_job.layers.execution_property[0].max_concurrent_runs == 1
    error_message = "Spark 3.5, and no two runs at once."
  }

  assert {
    condition     = aws_glue_job.layers.command[0].script_location == "s3://iot-lake/etl/glue_job.py"
    error_message = "The script lies in the lake's etl/."
  }

  assert {
    condition = toset(split(",", aws_glue_job.layers.default_arguments["--extra-py-files"])) == toset([
      for file in fileset("../../etl", "layers_*.py") : "s3://iot-lake/etl/${file}"
    ])
    error_message = "Every module that the job imports is given to it."
  }

  assert {
    condition = alltrue([
      for path in split(",", "${aws_glue_job.layers.default_arguments["--extra-py-files"]},${aws_glue_job.layers.default_arguments["--extra-files"]}") :
      contains(keys(aws_s3_object.etl), trimprefix(path, "s3://iot-lake/etl/"))
    ])
    error_message = "What the job is given is uploaded."
  }

  assert {
    condition     = aws_glue_trigger.layers[0].schedule == "cron(20 1 * * ? *)" && aws_glue_trigger.layers[0].start_on_creation
    error_message = "The trigger runs each day unless told otherwise."
  }
}

run "tables" {
  command = plan

  assert {
    condition = [for column in aws_glue_catalog_table.layers["processed"].storage_descriptor[0].columns : column.name] == concat(
      [
        for column in jsondecode(file("../../schema/sample.json")).columns : column.name
        if !try(column.partition, false) && column.name != "marker"
      ],
      ["timestamp_sent", "time_basis"],
    )
    error_message = "The processed columns follow infra/schema/sample.json."
  }

  assert {
    condition = alltrue([
      for table in aws_glue_catalog_table.layers :
      length(distinct([for column in table.storage_descriptor[0].columns : column.name])) == length(table.storage_descriptor[0].columns)
    ])
    error_message = "No column is there twice."
  }

  assert {
    condition = aws_glue_catalog_table.layers["processed"].parameters["storage.location.template"] == join("", [
      "s3://iot-lake/processed/samples/event_date=", "$", "{event_date}/",
    ])
    error_message = "Partitions lie where the job writes them."
  }

  assert {
    condition     = aws_glue_catalog_table.layers["trusted_hourly"].parameters["projection.event_date.range"] == "2020-01-01,NOW+1DAY"
    error_message = "Late data however old is found."
  }

  assert {
    condition     = length(aws_glue_catalog_table.layers["completeness"].partition_keys) == 0
    error_message = "Completeness is one file."
  }
}

run "by_hand" {
  command = plan

  variables {
    schedule = null
  }

  assert {
    condition     = length(aws_glue_trigger.layers) == 0
    error_message = "Without a schedule nothing starts the job."
  }
}

run "least_privilege" {
  command = plan

  variables {
    lake = {
      bucket_name   = "iot-lake"
      bucket_arn    = "arn:aws:s3:::iot-lake"
      database_name = "iot"
      kms_key_arn   = "arn:aws:kms:eu-west-1:123456789012:key/1"
    }
  }

  assert {
    condition     = alltrue([for statement in data.aws_iam_policy_document.job.statement : alltrue([for action in statement.actions : !strcontains(action, "*")])])
    error_message = "Every action is named."
  }

  assert {
    condition     = alltrue([for statement in data.aws_iam_policy_document.job.statement : !contains(statement.resources, "*")])
    error_message = "Nothing is allowed on everything."
  }

  assert {
    condition = toset(flatten([
      for statement in data.aws_iam_policy_document.job.statement : statement.resources if contains(statement.actions, "s3:DeleteObject")
      ])) == toset([
      "arn:aws:s3:::iot-lake/processed/*", "arn:aws:s3:::iot-lake/processed_*",
      "arn:aws:s3:::iot-lake/trusted/*", "arn:aws:s3:::iot-lake/trusted_*",
      "arn:aws:s3:::iot-lake/quarantine/*", "arn:aws:s3:::iot-lake/quarantine_*",
      "arn:aws:s3:::iot-lake/etl_*",
      "arn:aws:s3:::iot-lake/etl/state/*", "arn:aws:s3:::iot-lake/etl/state_*",
      "arn:aws:s3:::iot-lake/etl/staging/*", "arn:aws:s3:::iot-lake/etl/staging_*",
      "arn:aws:s3:::iot-lake/etl/temporary/*", "arn:aws:s3:::iot-lake/etl/temporary_*",
    ])
    error_message = "Raw rows and the program itself are read only."
  }

  assert {
    condition     = toset([for condition in data.aws_iam_policy_document.trust.statement[0].condition : condition.variable]) == toset(["aws:SourceAccount", "aws:SourceArn"])
    error_message = "Only Glue in this account takes the role."
  }
}

run "bad_input" {
  command = plan

  variables {
    name               = "Not A Name"
    schedule           = "every hour"
    worker_type        = "Standard"
    workers            = 1
    timeout_minutes    = 0
    batch              = 0
    files_a_date       = 0
    first_date         = "yesterday"
    log_retention_days = 2
  }

  expect_failures = [
    var.name, var.schedule, var.worker_type, var.workers, var.timeout_minutes, var.batch,
    var.files_a_date, var.first_date, var.log_retention_days,
  ]
}
