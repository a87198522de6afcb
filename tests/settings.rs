//! The settings of the program, of `.env.example` and of the blueprints agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::CommandFactory;
use oddsd::cli::Cli;

use crate::harness::program::Program;

/// Settings whose values must not be in a file of the repository.
const SECRETS: [&str; 8] = [
    "DATABASE_URL",
    "REDIS_URL",
    "UPSTASH_REDIS_REST_URL",
    "UPSTASH_REDIS_REST_TOKEN",
    "RACING_API_USERNAME",
    "RACING_API_PASSWORD",
    "ODDS_API_KEY",
    "REPORT_TOKEN",
];
/// Variables of the blueprints that are not settings of clap.
const NOT_OURS: [&str; 2] = ["RUST_LOG", "NO_COLOR"];

struct Setting {
    group: String,
    default: Option<String>,
    is_flag: bool,
}

/// The program's settings, by variable.
fn settings() -> BTreeMap<String, Setting> {
    let command = Cli::command();
    let settings = command.get_arguments().filter_map(|arg| {
        let variable = arg.get_env()?.to_str()?.to_owned();
        let default = arg.get_default_values().first();
        let setting = Setting {
            group: arg.get_help_heading()?.to_owned(),
            default: default.map(|default| default.to_string_lossy().into_owned()),
            is_flag: !arg.get_action().takes_values(),
        };
        Some((variable, setting))
    });
    settings.collect()
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The `NAME=value` and `# NAME=` lines of an example file, each with its group.
fn example(text: &str) -> BTreeMap<String, (String, Option<String>)> {
    let (mut group, mut found) = (String::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# --- ") {
            group = name.trim_end_matches(['-', ' ']).to_owned();
            continue;
        }
        let unset = line.strip_prefix("# ");
        let Some((name, value)) = unset.unwrap_or(line).split_once('=') else {
            continue;
        };
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            continue;
        }
        let value = unset.is_none().then(|| value.to_owned());
        let before = found.insert(name.to_owned(), (group.clone(), value));
        assert_eq!(before, None, "{name} is there twice");
    }
    found
}

#[test]
fn setting_has_a_variable_a_group_and_a_help_text() {
    let mut command = Cli::command();
    command.build();
    for arg in command.get_arguments() {
        let name = arg.get_id().as_str();
        if ["help", "version"].contains(&name) {
            continue;
        }
        assert!(arg.get_env().is_some(), "{name} has no variable");
        assert!(arg.get_help_heading().is_some(), "{name} is in no group");
        assert!(arg.get_help().is_some(), "{name} is not explained");
        assert!(arg.is_global_set(), "{name} is not known to every command");
    }
    for command in command.get_subcommands() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for arg in command.get_arguments() {
            let name = format!("{} {arg}", command.get_name());
            assert!(arg.get_help().is_some(), "{name} is not explained");
        }
    }
    for secret in SECRETS {
        let arg = command
            .get_arguments()
            .find(|arg| arg.get_env().is_some_and(|env| env == secret));
        let arg = arg.unwrap_or_else(|| panic!("{secret} is a setting"));
        assert!(arg.is_hide_env_values_set(), "--help would show {secret}");
    }
}

#[test]
fn env_example_has_every_setting_with_its_default_and_no_secret() {
    let (settings, example) = (settings(), example(&file(".env.example")));
    assert!(settings.len() > 35, "the settings are found");
    assert_eq!(
        example.keys().collect::<BTreeSet<_>>(),
        settings.keys().collect::<BTreeSet<_>>(),
        "left: .env.example, right: the program"
    );
    for (name, setting) in settings {
        assert!(!setting.is_flag, "{name} cannot be set in a file");
        let (group, value) = &example[&name];
        assert_eq!(*group, setting.group, "{name}");
        if name == "DATABASE_URL" {
            // A file in the working folder has to be asked for, and the example asks for it.
            assert_eq!(value.as_deref(), Some("sqlite:oddsd.db"));
            continue;
        }
        assert_eq!(*value, setting.default, "{name}: its default");
        if SECRETS.contains(&name.as_str()) && name != "DATABASE_URL" {
            assert_eq!(*value, None, "{name} is a secret");
        }
    }
}

#[tokio::test]
async fn env_example_is_read_by_the_program() {
    let oddsd = Program::new();
    let nothing = oddsd.run(&["check", "--offline", "--json"]).await;
    std::fs::write(oddsd.folder().join(".env"), file(".env.example")).expect("writes");
    let example = oddsd.run(&["check", "--offline", "--json"]).await;
    assert_eq!(example.json(), nothing.json(), "{example}");

    let text = file(".env.example").replace("LISTEN=127.0.0.1:8080", "LISTEN=off");
    std::fs::write(oddsd.folder().join(".env"), text).expect("writes");
    let off = oddsd.run(&["check", "--offline"]).await;
    off.expect_texts(&["off: a worker"]);
}

#[test]
fn blueprints_have_existing_settings_and_no_secret() {
    let settings = settings();
    for name in ["render.yaml", "deploy/render.web.yaml"] {
        let found = variables(&file(name));
        assert!(found.len() > 4, "{name} sets something");
        for (variable, value) in found {
            let ours = settings.contains_key(&variable) || NOT_OURS.contains(&variable.as_str());
            assert!(ours, "{name}: {variable} is no setting");
            let kept_out = value == "sync: false";
            let secret = SECRETS.contains(&variable.as_str());
            assert_eq!(secret, kept_out, "{name}: {variable} with {value}");
        }
    }
}

/// The variables of a blueprint, each with the line that follows it.
fn variables(blueprint: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = blueprint.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter_map(|pair| {
        let name = pair[0].strip_prefix("- key: ")?;
        Some((name.to_owned(), pair[1].to_owned()))
    });
    pairs.collect()
}

#[test]
fn example_and_blueprint_are_parsed() {
    let text = "# --- Cache ---\n# The URL = secret.\n# REDIS_URL=\nCACHE_ENABLED=true\n";
    let found = example(text);
    assert_eq!(found.len(), 2);
    assert_eq!(found["REDIS_URL"], ("Cache".into(), None));
    assert_eq!(
        found["CACHE_ENABLED"],
        ("Cache".into(), Some("true".into()))
    );
    let blueprint = "envVars:\n  - key: ODDS_API_KEY\n    value: abc\n";
    let expected = [("ODDS_API_KEY".to_owned(), "value: abc".to_owned())];
    assert_eq!(variables(blueprint), expected);
}
