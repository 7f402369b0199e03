//! Sources in their order become one configuration: a pure function, so that
//! it can be tried without a file system or an environment.
//!
//! Every source is read to its end and every value is looked at, also one that
//! a later source replaces: all that is wrong is said at once.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::Override;
use crate::config::draft::{Draft, Setting, Surroundings};
use crate::config::keys::{self, Key, Known};
use crate::config::model::Config;
use crate::config::problem::{Place, Problem, Source};
use crate::config::value::{Given, Wrong};

/// Lines that are no TOML which are shown of one file; more means that it is
/// another kind of file.
const MAX_SYNTAX_ERRORS: usize = 10;

/// A file that was asked for or found.
pub struct File {
    pub path: PathBuf,
    /// Why it could not be read, in words that follow the path, and the remedy.
    pub content: Result<Vec<u8>, (String, String)>,
}

/// The configuration and its warnings, or all that is wrong. `env` holds the
/// variables whose name begins with [`keys::ENV_PREFIX`].
pub fn resolve(
    files: &[File],
    env: &[(String, OsString)],
    overrides: &[Override],
    simulate: bool,
    surroundings: &Surroundings,
) -> Result<(Config, Vec<String>), Vec<Problem>> {
    let mut reader = Reader::default();
    for file in files {
        reader.file(file);
    }
    for (name, value) in env {
        reader.variable(name, value);
    }
    for over in overrides {
        reader.value(over);
    }
    let Reader { draft, mut problems, broken } = reader;
    // What a file that cannot be read may have set is not missing.
    if broken {
        return Err(problems);
    }
    let finished = draft.finish(simulate, surroundings);
    problems.extend(finished.problems);
    if problems.is_empty() { Ok((finished.config, finished.warnings)) } else { Err(problems) }
}

#[derive(Default)]
struct Reader {
    draft: Draft,
    problems: Vec<Problem>,
    /// A file, or a part of it, could not be read.
    broken: bool,
}

impl Reader {
    fn file(&mut self, file: &File) {
        let name = file.path.display().to_string();
        let bytes = match &file.content {
            Ok(bytes) => bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes),
            Err((what, remedy)) => {
                let (what, remedy) = (what.clone(), remedy.clone());
                self.problems.push(Problem { place: Place::whole(name), what, remedy });
                self.broken = true;
                return;
            }
        };
        let source = Source::new(name, String::from_utf8_lossy(bytes).into_owned(), true);
        if let Err(error) = std::str::from_utf8(bytes) {
            let at = error.valid_up_to();
            self.problems.push(Problem {
                place: source.place(at..at),
                what: "this is not UTF-8".into(),
                remedy: "Save the file as plain text in UTF-8.".into(),
            });
            self.broken = true;
            return;
        }
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        let mut errors: Vec<(usize, &str)> = errors
            .iter()
            .map(|error| (error.span().map_or(0, |span| span.start), error.message()))
            .collect();
        errors.sort_by_key(|(at, _)| *at);
        errors.dedup_by_key(|(at, _)| source.line_of(*at));
        let begin = self.problems.len();
        self.syntax(&source, &errors);
        let lines = errors.iter().map(|(at, _)| source.line_of(*at)).collect();
        self.table(&source, &lines, "", table.get_ref());
        if let Some(found) = self.problems.get_mut(begin..) {
            found.sort_by_key(|problem| problem.place.position());
        }
    }

    fn syntax(&mut self, source: &Source, errors: &[(usize, &str)]) {
        for (n, (at, message)) in errors.iter().enumerate() {
            let place = source.place(*at..*at);
            if n == MAX_SYNTAX_ERRORS {
                self.problems.push(Problem {
                    place,
                    what: format!("{} more lines are not TOML", errors.len() - n),
                    remedy: "Is this the right file?".into(),
                });
                break;
            }
            self.problems.push(Problem {
                place,
                what: format!("not TOML: {message}"),
                remedy: "A line is `key = value`, `[section]` or `# comment`; \
                         text stands in \"quotes\"."
                    .into(),
            });
        }
        self.broken |= !errors.is_empty();
    }

    fn variable(&mut self, name: &str, value: &OsString) {
        let Some(key) = keys::KEYS.iter().find(|key| key.env() == name) else {
            self.problems.push(Problem {
                place: Place::whole(name.to_owned()),
                what: "this variable is unknown".into(),
                remedy: keys::variable_instead_of(name),
            });
            return;
        };
        let Some(value) = value.to_str() else {
            self.problems.push(Problem {
                place: Place::whole(name.to_owned()),
                what: format!("the value of {} is not UTF-8", key.stem()),
                remedy: "Write it in UTF-8.".into(),
            });
            return;
        };
        let (key, value, origin) = (key.stem().to_owned(), value.to_owned(), name.to_owned());
        self.value(&Override { key, value, origin });
    }

    /// A variable or an option.
    fn value(&mut self, over: &Override) {
        let Override { key, value, origin } = over;
        let text = match origin.as_str() {
            "--set" => format!("--set {key}={value}"),
            option if option.starts_with("--") => format!("{option} {value}"),
            variable => format!("{variable}={value}"),
        };
        let begin = text.len() - value.len();
        let key_at =
            if origin == "--set" { begin - 1 - key.len()..begin - 1 } else { 0..begin - 1 };
        // As long as what stands before the value, so that spans agree.
        let document = format!("{:<width$}={value}", "x", width = begin - 1);
        let parsed = parse_bare(&document, value);
        let nest = |inner, part: &str| {
            let mut table = DeTable::new();
            table.insert(Spanned::new(key_at.clone(), part.to_owned().into()), inner);
            Spanned::new(key_at.clone(), DeValue::Table(table))
        };
        let nested = key.rsplit('.').fold(parsed, nest);
        let source = Source::new(origin.clone(), text, false);
        if let DeValue::Table(table) = nested.get_ref() {
            self.table(&source, &BTreeSet::new(), "", table);
        }
    }

    /// The settings of one table; `skip` holds the lines that are no TOML, of
    /// which the parser's guess is not worth a word.
    fn table(&mut self, source: &Source, skip: &BTreeSet<usize>, path: &str, table: &DeTable) {
        for (key, value) in table {
            let from = source.line_of(key.span().start.min(value.span().start));
            let to = source.line_of(key.span().start.max(value.span().end));
            if skip.range(from..=to).next().is_some() {
                continue;
            }
            let last = key.get_ref().as_ref();
            let name = if path.is_empty() { last.to_owned() } else { format!("{path}.{last}") };
            match (keys::find(&name), value.get_ref()) {
                (Some(Known::Key(known)), _) => self.setting(source, known, &name, value),
                (Some(Known::Section), DeValue::Table(inner)) => {
                    self.table(source, skip, &name, inner);
                }
                (Some(Known::Section), _) => self.problems.push(Problem {
                    place: source.place(value.span()),
                    what: format!("{name} is a section, not a value"),
                    remedy: keys::section_example(&name),
                }),
                (None, inner) => {
                    let is_section = matches!(inner, DeValue::Table(_));
                    self.problems.push(Problem {
                        place: source.place(key.span()),
                        what: format!(
                            "unknown {} {name:?}",
                            if is_section { "section" } else { "key" }
                        ),
                        remedy: keys::instead_of(&name, is_section),
                    });
                }
            }
        }
    }

    fn setting(
        &mut self,
        source: &Source,
        key: &'static Key,
        name: &str,
        value: &Spanned<DeValue>,
    ) {
        let place = source.place(value.span());
        let given = Given {
            name: name.strip_prefix(key.stem()).and_then(|n| n.strip_prefix('.')).unwrap_or(""),
            value: value.get_ref(),
            written: source.text.get(value.span()).unwrap_or_default(),
            bare: !source.is_file,
        };
        if let Err(Wrong { what, allowed }) = (key.read)(&mut self.draft, &given) {
            let example = match allowed.contains(key.example.trim_matches('"')) {
                true => String::new(),
                false => format!(", for example {}", key.example),
            };
            self.problems.push(Problem {
                place: place.clone(),
                what: format!("{}: {what}", name.escape_debug()),
                remedy: format!("Write {allowed}{example}."),
            });
        }
        let by_hand = source.name.starts_with("--");
        self.draft.settings.insert(key.name, Setting { place, by_hand });
    }
}

/// The last `value` of `document`: as TOML if it is, as text if it is not.
fn parse_bare<'a>(document: &'a str, value: &'a str) -> Spanned<DeValue<'a>> {
    let whole = document.len() - value.len()..document.len();
    let parsed =
        DeTable::parse(document).ok().and_then(|table| table.into_inner().into_iter().next());
    match parsed {
        // `pi#1` is a name, not a value with a comment.
        Some((_, parsed)) if parsed.span() == whole => parsed,
        _ => Spanned::new(whole, DeValue::String(value.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::problem::Errors;
    use std::time::Duration;

    fn file(name: &str, content: &[u8]) -> File {
        File { path: name.into(), content: Ok(content.to_vec()) }
    }

    fn set(key: &str, value: &str) -> Override {
        Override { key: key.into(), value: value.into(), origin: "--set".into() }
    }

    fn surroundings() -> Surroundings {
        Surroundings { host_name: "attic-7".into(), state: "/state".into() }
    }

    type Outcome = Result<(Config, Vec<String>), String>;

    fn all(
        files: &[File],
        env: &[(&str, &str)],
        overrides: &[Override],
        simulate: bool,
    ) -> Outcome {
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).into(), value.into())).collect();
        resolve(files, &env, overrides, simulate, &surroundings())
            .map_err(|problems| Errors(problems).to_string())
    }

    fn text(text: &str) -> Outcome {
        all(&[file("f", text.as_bytes())], &[], &[], false)
    }

    #[test]
    fn every_mistake_names_its_place_and_its_remedy() {
        for (written, wanted) in [
            ("[device]\nid = \"a/b\"", "f:2:6: device.id: \"a/b\" contains the character '/'"),
            ("[device]\nid = \"sim-1\"", "f:2:6: device.id: \"sim-1\" is the name of a simulated"),
            ("[device]\nid = 7", "f:2:6: device.id: 7 is not text"),
            ("[device]\nlabels = { a = 1 }", "f:2:16: device.labels.a: 1 is not text"),
            ("[device]\nlabels = { a = \"\" }", "f:2:16: device.labels.a: \"\" is empty"),
            ("[device]\nlabels = 3", "f:2:10: device.labels is a section, not a value"),
            ("[sample]\ninterval = \"0s\"", "f:2:12: sample.interval: \"0s\" is too short"),
            ("[sample]\ninterval = 10", "Write a duration from 100ms to 1d, for example \"10s\"."),
            ("[spool]\nmax_bytes = 0", "f:2:13: spool.max_bytes: 0 is too small"),
            (
                "[spool]\nmax_bytes = 0",
                "Write a size from 8 MiB to 16 TiB, for example \"256MiB\".",
            ),
            ("[spool]\npath = \"spool\"", "f:2:8: spool.path: \"spool\" does not begin with /"),
            ("[spool]\npath = \"/\"", "f:2:8: spool.path: \"/\" has no name at its end"),
            ("[spool]\nwhen_full = \"drop\"", "Write \"thin\" or \"drop-oldest\"."),
            ("[send]\nintervall = \"1m\"", "f:2:1: unknown key \"send.intervall\""),
            ("[send]\nintervall = \"1m\"", "Did you mean send.interval?"),
            ("[sned]\ninterval = \"1m\"", "f:1:2: unknown section \"sned\""),
            ("[credentials]\nkind = \"iot-core\"", "f:1:2: unknown section \"credentials\""),
            ("sink = \"lake\"", "Write a table, for example { kind = \"lake\" }."),
            ("[[sink]]\nkind = \"lake\"", "sink is a section, not a value"),
            ("[sink.kind]\nx = 1", "f:1:1: sink.kind: a table is not known"),
            ("[sink]\nkind = \"kinesis\"", "Write \"lake\" or \"firehose\" or \"stdout\""),
            ("[sink]\nkind = \"firehose\"", "f:2:8: sink.firehose.stream is missing"),
            ("[send]\ninterval = 10s", "f:2:12: not TOML: string values must be quoted"),
            ("[send\ninterval = \"10s\"", "f:1:6: not TOML: unclosed table"),
            ("[send]\norder = \"x\ny\"", "f:2:11: not TOML"),
            ("[simulate]\ndevices = 0", "Write a whole number from 1 to 10000."),
            ("[spool]\npath = \"/x\"\n[sink.lake]\npath = \"/x/lake\"", "f:4:8: spool.path \"/x\""),
        ] {
            let said = text(written).unwrap_err();
            assert!(said.contains(wanted), "{written}\n{said}");
        }
    }

    #[test]
    fn all_mistakes_of_all_sources_are_said_at_once_in_order() {
        let files = [
            file("a", b"[send]\ninterval = 1\norder = up\n[spool]\nmax_byte = 5"),
            file("b", b"[send]\norder = \"\xff\""),
            File { path: "c".into(), content: Err(("is a folder".into(), "Name a file.".into())) },
        ];
        let env = [("IOT_AGENT_CLOCK_WAIT", "x"), ("IOT_AGENT_CLOK_WAIT", "5m")];
        let said = all(&files, &env, &[set("sample.interval", "9")], false).unwrap_err();
        let heads: Vec<&str> =
            said.split("\n\n").filter_map(|block| block.lines().next()).collect();
        assert_eq!(
            heads,
            [
                "a:2:12: send.interval: 1 has no unit (ms, s, m, h or d)",
                "a:3:9: not TOML: string values must be quoted, expected literal string",
                "a:5:1: unknown key \"spool.max_byte\"",
                "b:2:10: this is not UTF-8",
                "c: is a folder",
                "IOT_AGENT_CLOCK_WAIT: clock.wait: \"x\" is not a duration (units: ms, s, m, h, d)",
                "IOT_AGENT_CLOK_WAIT: this variable is unknown",
                "--set: sample.interval: 9 has no unit (ms, s, m, h or d)",
            ]
        );
        assert!(said.contains("Did you mean IOT_AGENT_CLOCK_WAIT?"));
    }

    #[test]
    fn a_file_of_another_kind_is_not_quoted_in_full() {
        let said = text(&"what is this?\n".repeat(100)).unwrap_err();
        assert!(said.contains("f:11:6: 90 more lines are not TOML"), "{said}");
        assert_eq!(said.matches("f:").count(), MAX_SYNTAX_ERRORS + 1);
    }

    #[test]
    fn the_last_source_wins_key_by_key() {
        let files = [
            file("a", b"[send]\ninterval = \"1m\"\norder = \"oldest-first\"\n[device]\nid = \"a\""),
            file(
                "b",
                b"\xef\xbb\xbf[send]\r\ninterval = \"2m\"\r\n[device.labels]\r\nrack = \"1\"",
            ),
        ];
        let env = [("IOT_AGENT_DEVICE_ID", "env"), ("IOT_AGENT_DEVICE_LABELS", "{ site = \"x\" }")];
        let overrides = [set("device.id", "hand"), set("device.labels.site", "42")];
        let (config, _) = all(&files, &env, &overrides, false).unwrap();
        assert_eq!(config.send.interval, Duration::from_secs(120));
        assert_eq!(config.send.order, crate::drain::Order::OldestFirst);
        assert_eq!(config.device.id, "hand");
        let labels = [("rack", "1"), ("site", "42")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(config.device.labels, labels.into());
    }

    #[test]
    fn a_label_may_have_dots_in_its_name() {
        let (config, _) = text("[device.labels]\n\".a.b\" = \"x\"").unwrap();
        assert_eq!(config.device.labels, [(".a.b".to_owned(), "x".to_owned())].into());
    }

    #[test]
    fn a_bare_value_needs_no_quotes() {
        for (value, id) in [("007", "007"), ("42", "42"), ("true", "true"), ("\"q\"", "q")] {
            let (config, _) = all(&[], &[], &[set("device.id", value)], false).unwrap();
            assert_eq!(config.device.id, id);
        }
        let said = all(&[], &[], &[set("device.id", "1#2")], false).unwrap_err();
        assert!(said.contains("contains the character '#'"), "{said}");
        let devices = Override {
            key: "simulate.devices".into(),
            value: "0".into(),
            origin: "--devices".into(),
        };
        let said = all(&[], &[], &[devices], true).unwrap_err();
        assert!(said.contains("    --devices 0\n              ^\n"), "{said}");
        let said = all(&[], &[], &[set("send.intervall", "1s")], false).unwrap_err();
        assert!(said.contains("    --set send.intervall=1s\n          ^^^^^^^^^^^^^^\n"), "{said}");
    }
}
