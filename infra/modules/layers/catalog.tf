locals {
  columns = jsondecode(file("${local.etl}/tables.json"))
  sample  = jsondecode(file("${path.module}/../../schema/sample.json")).columns

  # As layers_tables.py types them: a date for the text, no marker, no partition.
  samples = concat(
    [
      for column in local.sample : {
        name    = column.name
        type    = column.name == "timestamp" ? "timestamp" : column.type
        comment = column.comment
      } if !try(column.partition, false) && column.name != "marker"
    ],
    local.columns.samples,
  )

  tables = {
    processed = {
      description = "Samples, each once, typed and dated."
      folder      = "processed/samples"
      partition   = "event_date"
      columns     = local.samples
    }
    markers = {
      description = "What the agents said about themselves, each once."
      folder      = "processed/markers"
      partition   = null
      columns     = local.columns.markers
    }
    trusted_hourly = {
      description = "Hours of a device."
      folder      = "trusted/hourly"
      partition   = "event_date"
      columns     = local.columns.hourly
    }
    trusted_daily = {
      description = "Days of a device."
      folder      = "trusted/daily"
      partition   = "event_date"
      columns     = local.columns.daily
    }
    completeness = {
      description = "What of each device and run arrived, is declared, is missing."
      folder      = "trusted/completeness"
      partition   = null
      columns     = local.columns.completeness
    }
    quarantine = {
      description = "Rows and objects that are wrong, and why."
      folder      = "quarantine"
      partition   = "sent_date"
      columns     = local.columns.quarantine
    }
  }
}

resource "aws_glue_catalog_table" "layers" {
  for_each = local.tables

  name          = each.key
  database_name = var.lake.database_name
  description   = each.value.description
  table_type    = "EXTERNAL_TABLE"

  parameters = merge(
    { "classification" = "parquet", "EXTERNAL" = "TRUE" },
    each.value.partition == null ? {} : {
      "projection.enabled"                               = "true"
      "projection.${each.value.partition}.type"          = "date"
      "projection.${each.value.partition}.format"        = "yyyy-MM-dd"
      "projection.${each.value.partition}.interval"      = "1"
      "projection.${each.value.partition}.interval.unit" = "DAYS"
      # A clock may be ahead by a day, and what has no date is of 1970.
      "projection.${each.value.partition}.range" = each.key == "quarantine" ? "1970-01-01,NOW+1DAY" : "${var.first_date},NOW+1DAY"
      "storage.location.template"                = "s3://${var.lake.bucket_name}/${each.value.folder}/${each.value.partition}=$${${each.value.partition}}/"
    },
  )

  dynamic "partition_keys" {
    for_each = each.value.partition == null ? [] : [each.value.partition]

    content {
      name    = partition_keys.value
      type    = "date"
      comment = "UTC"
    }
  }

  storage_descriptor {
    location      = "s3://${var.lake.bucket_name}/${each.value.folder}/"
    input_format  = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat"
    output_format = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat"

    ser_de_info {
      serialization_library = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
    }

    dynamic "columns" {
      for_each = each.value.columns

      content {
        name    = columns.value.name
        type    = columns.value.type
        comment = columns.value.comment
      }
    }
  }
}
