//! Policies, as planned: exact actions, named resources, bound trust.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::LazyLock;

use iot_agent_test_support::full;
use iot_agent_test_support::terraform::{Infra, Plan};
use serde_json::Value;

use crate::minimal;

fn list(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        many => many.as_array().into_iter().flatten().map(|v| v.as_str().unwrap().into()).collect(),
    }
}

/// The statements of `values[key]`, if it is a policy known in the plan.
fn statements(values: &Value, key: &str) -> Vec<Value> {
    let text = values[key].as_str().unwrap_or("{}");
    let policy: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    policy["Statement"].as_array().cloned().unwrap_or_default()
}

fn actions(statements: &[Value]) -> BTreeSet<String> {
    statements.iter().flat_map(|statement| list(&statement["Action"])).collect()
}

/// Of every example, planned once.
fn examples() -> &'static [(String, Plan)] {
    static PLANS: LazyLock<Vec<(String, Plan)>> = LazyLock::new(|| {
        let parts = Infra::new().parts().into_iter().filter(|part| part.starts_with("examples/"));
        parts.map(|part| (part.clone(), Plan::of(&part))).collect()
    });
    &PLANS
}

#[test]
fn a_device_may_deliver_to_one_stream_and_nothing_else() {
    let plan = minimal();
    let statements = statements(plan.the("aws_iam_policy"), "policy");
    let may = ["firehose:DescribeDeliveryStream", "firehose:PutRecordBatch"].map(String::from);
    assert_eq!(actions(&statements), BTreeSet::from(may));
    let stream = plan.the("aws_kinesis_firehose_delivery_stream")["name"].as_str().unwrap();
    for statement in &statements {
        let resources = list(&statement["Resource"]);
        let [arn] = &resources[..] else { panic!("{resources:?}") };
        assert!(arn.ends_with(&format!(":deliverystream/{stream}")), "{arn}");
    }
}

#[test]
fn the_stream_may_write_its_folders_and_read_its_columns_and_nothing_else() {
    let plan = minimal();
    let statements = statements(plan.the("aws_iam_role_policy"), "policy");
    let may = [
        "glue:GetTable",
        "glue:GetTableVersion",
        "glue:GetTableVersions",
        "logs:PutLogEvents",
        "s3:AbortMultipartUpload",
        "s3:GetBucketLocation",
        "s3:ListBucket",
        "s3:ListBucketMultipartUploads",
        "s3:PutObject",
    ];
    assert_eq!(actions(&statements), BTreeSet::from(may.map(String::from)));
    let bucket = plan.the("aws_s3_bucket")["bucket"].as_str().unwrap();
    let writes = statements.iter().filter(|s| list(&s["Action"]).contains(&"s3:PutObject".into()));
    let written: Vec<_> = writes.flat_map(|s| list(&s["Resource"])).collect();
    let folders = ["data", "errors"].map(|folder| format!("arn:aws:s3:::{bucket}/{folder}/*"));
    assert_eq!(written, folders);
}

#[test]
fn no_policy_has_a_wildcard_where_a_name_would_do() {
    let mut seen = 0;
    for (part, plan) in examples() {
        for (address, kind, values) in plan.resources() {
            for statement in statements(values, "policy") {
                if statement["Effect"] != "Allow" {
                    continue;
                }
                seen += 1;
                let here = format!("{part} {address}: {statement}");
                let may = list(&statement["Action"]);
                assert!(!may.is_empty() && may.iter().all(|a| !a.contains('*')), "{here}");
                assert!(statement.get("NotAction").is_none(), "{here}");
                // In a key's own policy the star is this key.
                let named = kind != "aws_kms_key";
                for arn in list(&statement["Resource"]) {
                    // A star stands for what is below a folder or marks it, or a log's streams.
                    let whole = arn.trim_end_matches('*');
                    let below = whole.ends_with(['/', '_']) || whole.ends_with(":log-stream:");
                    assert!(
                        arn == whole || below && whole.matches(':').count() >= 5 || !named,
                        "{here}"
                    );
                }
            }
        }
    }
    assert!(seen >= 5, "{seen} statements");
}

#[test]
fn only_a_service_of_this_account_and_this_stream_takes_a_role_on() {
    let mut seen = 0;
    for (part, plan) in examples() {
        for (address, _, values) in plan.resources() {
            for statement in statements(values, "assume_role_policy") {
                seen += 1;
                let here = format!("{part} {address}: {statement}");
                assert_ne!(statement["Principal"], "*", "{here}");
                let services = list(&statement["Principal"]["Service"]);
                // EC2 says neither when it takes a role on.
                if services.is_empty() || services == ["ec2.amazonaws.com"] {
                    continue;
                }
                let conditions = statement["Condition"].to_string();
                for key in ["aws:SourceAccount", "aws:SourceArn"] {
                    assert!(conditions.contains(key), "{here}");
                }
            }
        }
    }
    assert!(seen >= 2, "{seen} trust statements");
}

#[test]
fn the_bucket_is_closed_and_speaks_tls_only() {
    let plan = minimal();
    let closed = plan.the("aws_s3_bucket_public_access_block");
    for key in [
        "block_public_acls",
        "block_public_policy",
        "ignore_public_acls",
        "restrict_public_buckets",
    ] {
        assert_eq!(closed[key], true, "{key}");
    }
    let statements = statements(plan.the("aws_s3_bucket_policy"), "policy");
    let bucket = plan.the("aws_s3_bucket")["bucket"].as_str().unwrap();
    let denies = |statement: &Value| {
        statement["Effect"] == "Deny"
            && statement["Principal"] == "*"
            && list(&statement["Action"]) == ["s3:*"]
            && statement["Condition"]["Bool"]["aws:SecureTransport"] == "false"
            && list(&statement["Resource"])
                == [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")]
    };
    assert!(statements.iter().any(denies), "{statements:?}");
}

#[test]
fn parliament_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for (_, plan) in examples() {
        for (_, kind, values) in plan.resources() {
            if let Some(policy) = values["policy"].as_str() {
                count += 1;
                // In a key's own policy the star is this key, which has no name before the apply.
                let key =
                    "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-0000-0000-000000000000";
                let policy = match kind {
                    "aws_kms_key" => {
                        &policy.replace(r#""Resource":"*""#, &format!(r#""Resource":"{key}""#))
                    }
                    _ => policy,
                };
                fs::write(folder.path().join(format!("{count}.json")), policy).unwrap();
            }
        }
    }
    assert!(count >= 3, "{count} policies");
    let output = Command::new(full("parliament"))
        .args(["--directory", &folder.path().to_string_lossy(), "--json"])
        .output()
        .expect("parliament starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{count} policies: {said}{errors}");
}
