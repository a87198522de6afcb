//! `rules`: is the file right, does it do what it should, and what would this change remove? Nothing is
//! contacted for any of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::FAILED;
use super::say::say;
use crate::config::{BadSetting, Settings};
use crate::rules::{Change, Rules};

#[derive(Debug, Args)]
pub struct RulesCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Read a rules file and say what is wrong with it, each fault with its place.
    Check(FileArgs),
    /// Run the tests that the file holds.
    Test(FileArgs),
    /// Which rules a change meets, and which keys they remove.
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
struct FileArgs {
    /// The file; without it the one that the daemon would use.
    file: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The file; without it the one that the daemon would use, or the built-in rules.
    #[arg(long)]
    rules: Option<PathBuf>,
    /// What happened, e.g. '{"change":"task_completed","task":"build","run_id":"ab-12"}'.
    #[arg(long)]
    change: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub fn rules(settings: &Settings, command: &RulesCommand) -> anyhow::Result<ExitCode> {
    match &command.what {
        What::Check(args) => check(settings, args),
        What::Test(args) => test(settings, args),
        What::Explain(args) => explain(settings, args),
    }
}

fn check(settings: &Settings, args: &FileArgs) -> anyhow::Result<ExitCode> {
    let (name, rules) = file(settings, args.file.as_deref())?;
    let (tests, failed) = rules.test();
    if args.json {
        let all: Vec<Value> = rules.iter().map(|rule| json!(&*rule.name)).collect();
        say!(
            "{}",
            json!({ "file": name, "version": &**rules.version(), "rules": all, "tests": tests, "tests_failed": failed.len() })
        );
    } else {
        say!(
            "{name}: right; {} rules are in force with it (version {})",
            rules.len(),
            rules.version()
        );
        if !failed.is_empty() {
            say!(
                "{} of its {tests} tests fail: oddsd rules test {name}",
                failed.len()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn test(settings: &Settings, args: &FileArgs) -> anyhow::Result<ExitCode> {
    let (name, rules) = file(settings, args.file.as_deref())?;
    let (tests, failed) = rules.test();
    if args.json {
        let told: Vec<Value> = failed
            .iter()
            .map(|test| {
                json!({ "line": test.line, "name": test.name, "missing": test.missing, "extra": test.extra, "faults": test.faults })
            })
            .collect();
        say!(
            "{}",
            json!({ "file": name, "tests": tests, "failed": told })
        );
    } else {
        for test in &failed {
            say!("{name}:{test}");
        }
        match (tests, failed.len()) {
            (0, _) => say!("{name} holds no tests: add [[test]] with a change and what it removes"),
            (tests, 0) => say!("{tests} tests pass"),
            (tests, failed) => say!("{failed} of {tests} tests fail"),
        }
    }
    Ok(match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

fn explain(settings: &Settings, args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let rules = match (&args.rules, settings.rules.rules_file.exists()) {
        (Some(path), _) => Arc::new(file(settings, Some(path))?.1),
        (None, true) => Arc::new(file(settings, None)?.1),
        (None, false) => Arc::clone(Rules::builtin()),
    };
    let change = parse_change(&args.change)?;
    let hits = rules.decide(&change, None);
    let unmet = rules.near_misses(&change);
    let told = hits.iter().map(|hit| {
        let (held, gone): (Vec<_>, Vec<_>) = hit.aims.iter().partition(|aim| !change.holds(aim));
        let texts = |aims: &[&crate::rules::Aim]| -> Vec<String> {
            aims.iter().map(|aim| aim.target.to_string()).collect()
        };
        (hit, texts(&gone), texts(&held))
    });
    let told: Vec<_> = told.collect();
    if args.json {
        let matched: Vec<Value> = told
            .iter()
            .map(|(hit, gone, held)| {
                let targets: Vec<&str> = hit.rule.targets.iter().map(|target| target.text.as_str()).collect();
                json!({
                    "rule": &*hit.rule.name, "then": hit.rule.then.as_str(), "reason": hit.reason, "targets": targets,
                    "keys": gone, "held": held, "errors": hit.faults,
                })
            })
            .collect();
        let unmet: Vec<Value> = unmet
            .iter()
            .map(|(rule, why)| json!({ "rule": &*rule.name, "why": why }))
            .collect();
        say!(
            "{}",
            json!({ "version": &**rules.version(), "matched": matched, "not_matched": unmet })
        );
        return Ok(ExitCode::SUCCESS);
    }
    if hits.is_empty() {
        say!("no rule is for this change: it removes nothing");
    }
    for (hit, gone, held) in &told {
        let rule = hit.rule;
        say!(
            "rule {} ({}, {})",
            rule.name,
            hit.reason,
            rule.then.as_str()
        );
        for target in &rule.targets {
            say!("  target {}", target.text);
        }
        for key in gone {
            say!("    -> {key}");
        }
        for key in held {
            say!("    stays {key}: the price has not moved far enough");
        }
        for fault in &hit.faults {
            say!("    error: {fault}");
        }
    }
    // Where something is met, rules for other tasks and tables are no news.
    let about_others =
        |why: &str| why.starts_with("only for task") || why.starts_with("only for table");
    let unmet = unmet
        .into_iter()
        .filter(|(_, why)| hits.is_empty() || !about_others(why));
    for (rule, why) in unmet {
        say!("rule {} is not met: {why}", rule.name);
    }
    Ok(ExitCode::SUCCESS)
}

/// A change as people write it.
pub fn parse_change(text: &str) -> anyhow::Result<Change> {
    let value: Value = serde_json::from_str(text).map_err(|why| {
        BadSetting(format!(
            "--change is no JSON: {why}; write --change '{{\"change\":\"price_changed\",\"event_id\":\"rac_1\"}}'"
        ))
    })?;
    Ok(Change::parse(&value).map_err(|why| BadSetting(format!("--change: {why}")))?)
}

fn file(settings: &Settings, path: Option<&Path>) -> anyhow::Result<(String, Rules)> {
    let path = path.unwrap_or(&settings.rules.rules_file);
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|why| {
        BadSetting(format!(
            "cannot read {name}: {why}; name the rules file, or set RULES_FILE"
        ))
    })?;
    let rules = Rules::parse(&name, &text).map_err(|why| BadSetting(why.to_string()))?;
    Ok((name, rules))
}
