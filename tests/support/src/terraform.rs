//! Terraform, on a copy of `infra/`: what it makes while it works stays there.
//!
//! It is the `terraform` of PATH, after sourcing the file that
//! `IOT_TERRAFORM_ENV` names, if it does: an installation without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::succeed;

/// What stands for `.` in `sh -c`: Terraform, or a sentence of what is missing.
const SHELL: &str = r#"[ -z "$IOT_TERRAFORM_ENV" ] || . "$IOT_TERRAFORM_ENV"
command -v terraform >/dev/null || {
  echo "terraform is missing: install it, or have IOT_TERRAFORM_ENV name a file to source" >&2
  exit 127
}
exec terraform "$@""#;

/// A copy of `infra/`; deleted when dropped.
pub struct Infra(TempDir);

impl Infra {
    pub fn new() -> Self {
        let copy = TempDir::new().expect("a temporary folder");
        let mut cp = Command::new("cp");
        succeed(cp.arg("-a").arg(crate::repository("infra")).arg(copy.path()));
        Self(copy)
    }

    /// A file or folder of it, by its path below `infra/`.
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.path().join("infra").join(path)
    }

    /// Its modules and examples: folders with a `versions.tf`, as paths below
    /// `infra/`, sorted.
    pub fn parts(&self) -> Vec<String> {
        let mut parts = Vec::new();
        for kind in ["modules", "examples"] {
            for entry in fs::read_dir(self.path(kind)).expect("infra has it").flatten() {
                let part = format!("{kind}/{}", entry.file_name().to_string_lossy());
                if self.path(&part).join("versions.tf").exists() {
                    parts.push(part);
                }
            }
        }
        parts.sort();
        parts
    }

    /// Runs Terraform in `part`.
    pub fn terraform<const N: usize>(&self, part: &str, arguments: [&str; N]) -> Output {
        terraform(&self.path(part), arguments)
    }

    /// [`Infra::terraform`], which must succeed; returns what it printed.
    #[track_caller]
    pub fn run<const N: usize>(&self, part: &str, arguments: [&str; N]) -> String {
        let output = self.terraform(part, arguments);
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{part}: terraform {arguments:?}:\n{said}{errors}");
        said.into_owned()
    }

    pub fn init(&self, part: &str) {
        self.run(part, ["init", "-backend=false", "-input=false", "-no-color"]);
    }

    /// What `part` would make, as `terraform show -json` has it, after
    /// [`Infra::init`].
    #[track_caller]
    pub fn plan(&self, part: &str) -> Plan {
        self.run(part, ["plan", "-input=false", "-no-color", "-out=plan"]);
        let json = self.run(part, ["show", "-json", "plan"]);
        Plan(serde_json::from_str(&json).expect("it is JSON"))
    }
}

impl Default for Infra {
    fn default() -> Self {
        Self::new()
    }
}

fn terraform<const N: usize>(folder: &Path, arguments: [&str; N]) -> Output {
    Command::new("sh")
        .args(["-c", SHELL, "sh"])
        .args(arguments)
        .current_dir(folder)
        // No call reaches an account.
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("CHECKPOINT_DISABLE", "1")
        .output()
        .expect("sh starts")
}

/// See [`Infra::plan`].
pub struct Plan(pub Value);

impl Plan {
    /// What `part` of `infra/` would make.
    #[track_caller]
    pub fn of(part: &str) -> Self {
        let infra = Infra::new();
        infra.init(part);
        infra.plan(part)
    }

    /// Every planned resource: its address, its type, and its values.
    pub fn resources(&self) -> Vec<(&str, &str, &Value)> {
        let mut found = Vec::new();
        collect(&self.0["planned_values"]["root_module"], &mut found);
        found
    }

    /// The values of the only resource of `kind`.
    #[track_caller]
    pub fn the(&self, kind: &str) -> &Value {
        let found: Vec<_> = self.resources().into_iter().filter(|(_, k, _)| *k == kind).collect();
        assert_eq!(found.len(), 1, "{kind}");
        found[0].2
    }

    /// A planned output; null if it is known only after an apply.
    pub fn output(&self, name: &str) -> &Value {
        &self.0["planned_values"]["outputs"][name]["value"]
    }
}

fn collect<'a>(module: &'a Value, into: &mut Vec<(&'a str, &'a str, &'a Value)>) {
    for resource in module["resources"].as_array().into_iter().flatten() {
        let text = |key: &str| resource[key].as_str().expect("Terraform says it");
        into.push((text("address"), text("type"), &resource["values"]));
    }
    for child in module["child_modules"].as_array().into_iter().flatten() {
        collect(child, into);
    }
}
