//! Each part's README names its inputs and outputs as they are.

use std::fs;

use iot_agent_test_support::terraform::Infra;

/// What a block `kind "name" { … }` of `text` says: name and description.
fn blocks(text: &str, kind: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for block in text.split(&format!("\n{kind} \"")).skip(1) {
        let (name, body) = block.split_once('"').expect("a name ends");
        let line = body.lines().find_map(|line| line.strip_prefix("  description = \""));
        let line = line.unwrap_or_else(|| panic!("{kind} {name} has no description"));
        let description = line.trim_end_matches('"').replace("\\\"", "\"");
        found.push((name.to_owned(), description));
    }
    found
}

/// Rows of the table below `## heading`: the first cell's name, and the last cell.
fn rows(readme: &str, heading: &str) -> Vec<(String, String)> {
    let after = readme.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_default();
    let section = after.split("\n## ").next().unwrap_or_default();
    let row = |line: &str| {
        let cells = line.strip_prefix("| `")?.strip_suffix(" |")?;
        let (name, rest) = cells.split_once('`')?;
        Some((name.to_owned(), rest.rsplit(" | ").next()?.to_owned()))
    };
    section.lines().filter_map(row).collect()
}

#[test]
fn every_input_and_output_stands_in_the_readme_as_it_is() {
    let infra = Infra::new();
    for part in infra.parts() {
        let read = |file: &str| {
            let path = infra.path(&part).join(file);
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{part}/{file}: {e}"));
            format!("\n{text}")
        };
        let readme = read("README.md");
        for (file, kind, heading) in
            [("variables.tf", "variable", "Inputs"), ("outputs.tf", "output", "Outputs")]
        {
            let there = blocks(&read(file), kind);
            assert!(!there.is_empty(), "{part}/{file}");
            assert_eq!(rows(&readme, heading), there, "{part}/README.md, {heading}");
        }
    }
}
