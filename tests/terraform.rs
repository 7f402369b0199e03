//! `infra/` plans what it says: every module and example is valid, refuses bad
//! input in words, gives each role what it needs and no more, and has one schema.
//!
//! Needs: terraform
//! Tier: full

#![cfg(test)]

#[path = "terraform/policies.rs"]
mod policies;
#[path = "terraform/readme.rs"]
mod readme;

use std::fs;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use iot_agent_test_support::process::Launch;
use iot_agent_test_support::terraform::{Infra, Plan};
use iot_agent_test_support::{full, repository};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");
const MINIMAL: &str = "examples/minimal";

/// Of the smallest example, planned once.
fn minimal() -> &'static Plan {
    static PLAN: LazyLock<Plan> = LazyLock::new(|| Plan::of(MINIMAL));
    &PLAN
}

#[test]
fn every_part_is_formatted_and_valid_and_refuses_bad_input_in_words() {
    let infra = Infra::new();
    infra.run("", ["fmt", "-check", "-diff", "-recursive", "-no-color"]);
    for part in infra.parts() {
        infra.init(&part);
        let said = infra.terraform(&part, ["validate", "-json"]);
        let verdict: Value = serde_json::from_slice(&said.stdout).expect("it is JSON");
        // A deprecated argument would be a warning.
        assert_eq!(verdict["diagnostics"], json!([]), "{part}");
        let tests = infra.run(&part, ["test", "-no-color"]);
        let summary = tests.trim().lines().last().unwrap_or_default().to_owned();
        println!("{part}: {summary}");
        let is_module = part.starts_with("modules/");
        assert!(!is_module || infra.path(&part).join("tests").exists(), "{part} has no tests");
    }
}

fn columns_of(list: &Value) -> Vec<(String, String)> {
    let text = |column: &Value, key: &str| column[key].as_str().unwrap_or_default().to_owned();
    let all = list.as_array().expect("a list of columns");
    all.iter().map(|column| (text(column, "name"), text(column, "type"))).collect()
}

#[test]
fn the_table_has_the_columns_of_the_schema_file_and_a_new_one_is_one_edit() {
    let infra = Infra::new();
    infra.init(MINIMAL);
    let path = infra.path("schema/sample.json");
    let mut schema: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let (before, after) = (infra.plan(MINIMAL), {
        let new = json!({ "name": "humidity", "type": "double", "comment": "percent" });
        schema["columns"].as_array_mut().unwrap().push(new);
        fs::write(&path, schema.to_string()).unwrap();
        infra.plan(MINIMAL)
    });
    let all = schema["columns"].as_array().unwrap();
    let (parts, rows): (Vec<&Value>, Vec<&Value>) =
        all.iter().partition(|column| column["partition"] == true);
    let columns = |plan: &Plan| {
        let table = plan.the("aws_glue_catalog_table");
        assert_eq!(columns_of(&table["partition_keys"]), columns_of(&json!(parts)));
        columns_of(&table["storage_descriptor"][0]["columns"])
    };
    let mut expected = columns_of(&json!(rows));
    assert_eq!(columns(&after), expected);
    expected.pop();
    assert_eq!(columns(&before), expected);
}

#[test]
fn a_table_changed_by_hand_is_named_by_the_plan_which_puts_it_back() {
    let infra = Infra::new();
    infra.init(MINIMAL);
    infra.run(MINIMAL, ["apply", "-input=false", "-no-color", "-auto-approve"]);
    let plan = ["plan", "-input=false", "-no-color"];
    let said = infra.run(MINIMAL, plan);
    assert!(said.contains("No changes."), "{said}");

    // As a refresh would find it.
    let path = infra.path(MINIMAL).join("terraform.tfstate");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let resources = state["resources"].as_array_mut().unwrap();
    let table = resources.iter_mut().find(|each| each["type"] == "aws_glue_catalog_table");
    let table = &mut table.unwrap()["instances"][0]["attributes"]["storage_descriptor"][0];
    let lost = table["columns"].as_array_mut().unwrap().pop().unwrap();
    fs::write(&path, state.to_string()).unwrap();

    let said = infra.run(MINIMAL, plan);
    let named = "module.lake.aws_glue_catalog_table.raw will be updated in-place";
    let column = format!("+ name    = {}", lost["name"]);
    assert!(said.contains(named) && said.contains(&column), "{said}");
    assert!(said.contains("Plan: 0 to add, 1 to change, 0 to destroy."), "{said}");
}

#[test]
fn what_is_printed_for_the_agent_is_a_configuration_that_it_takes() {
    let plan = minimal();
    let toml = plan.output("agent_toml").as_str().expect("it is known before the apply").to_owned();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("iot-agent.toml");
    fs::write(&path, &toml).unwrap();
    let mut check = Launch::bare(AGENT, home.path())
        .args(["check", "--offline", "--config"])
        .arg(&path)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .start();
    let status = check.finish(Duration::from_secs(60));
    let said = format!("{}{}", check.stdout(), check.stderr());
    assert!(status.success(), "{toml}{said}");
    let stream = plan.the("aws_kinesis_firehose_delivery_stream")["name"].as_str().unwrap();
    assert!(toml.contains(&format!("stream = \"{stream}\"")), "{toml}");
}

#[test]
fn checkov_finds_nothing_that_is_not_explained() {
    let output = Command::new(full("checkov"))
        .args(["--quiet", "--compact", "--framework", "terraform", "--output", "json"])
        .args(["--directory", &repository("infra").to_string_lossy()])
        // It has no network, and asks for guidelines only to print links.
        .env("LOG_LEVEL", "CRITICAL")
        .output()
        .expect("checkov starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| {
        panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr))
    });
    let summary = &report["summary"];
    println!("{summary}");
    let failed = report["results"]["failed_checks"].as_array().expect("a list of findings");
    let name = |check: &Value| {
        format!("{} {} {}", check["check_id"], check["resource"], check["check_name"])
    };
    assert!(failed.is_empty(), "{:#?}", failed.iter().map(name).collect::<Vec<_>>());
    assert_eq!(summary["parsing_errors"], 0, "{summary}");
    assert!(summary["passed"].as_u64() > Some(40), "{summary}");
}
