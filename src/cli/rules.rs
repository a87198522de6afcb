//! `rules`: validates, tests and explains a rules file. It contacts neither the database nor the cache.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::FAILED;
use super::output::out;
use crate::config::{InvalidSetting, Settings};
use oddsd_core::rules::{RuleChange, RuleMatch, Rules};

#[derive(Debug, Args)]
pub struct RulesCommand {
    #[command(subcommand)]
    action: RulesAction,
}

#[derive(Debug, Subcommand)]
enum RulesAction {
    /// Validate a rules file; print each fault with its line.
    Check(FileArgs),
    /// Run the tests in a rules file.
    Test(FileArgs),
    /// Show which rules match a change, and which keys they remove.
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
struct FileArgs {
    /// The rules file; the daemon's one by default.
    file: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The rules file; by default the daemon's one, or the built-in rules.
    #[arg(long)]
    rules: Option<PathBuf>,
    /// The change, e.g. '{"change":"task_completed","task":"build","run_id":"ab-12"}'.
    #[arg(long)]
    change: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub fn rules(settings: &Settings, command: &RulesCommand) -> anyhow::Result<ExitCode> {
    match &command.action {
        RulesAction::Check(args) => check(settings, args),
        RulesAction::Test(args) => test(settings, args),
        RulesAction::Explain(args) => explain(settings, args),
    }
}

fn check(settings: &Settings, args: &FileArgs) -> anyhow::Result<ExitCode> {
    let (name, rules) = file(settings, args.file.as_deref())?;
    let (tests, failed) = rules.run_tests();
    if args.json {
        let all: Vec<&str> = rules.iter().map(|rule| &*rule.name).collect();
        let object = json!({
            "file": name, "version": &**rules.version(), "rules": all, "tests": tests, "tests_failed": failed.len(),
        });
        out!("{object}");
    } else {
        let (count, version) = (rules.iter().len(), rules.version());
        out!("{name}: valid; with the built-in ones it has {count} rules (version {version})");
        if !failed.is_empty() {
            let failed = failed.len();
            out!("{failed} of its {tests} tests fail: oddsd rules test {name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn test(settings: &Settings, args: &FileArgs) -> anyhow::Result<ExitCode> {
    let (name, rules) = file(settings, args.file.as_deref())?;
    let (tests, failed) = rules.run_tests();
    if args.json {
        let failed = failed.iter().map(|test| {
            json!({ "line": test.line, "name": test.name, "missing": test.missing, "extra": test.extra, "faults": test.faults })
        });
        let failed: Vec<Value> = failed.collect();
        out!(
            "{}",
            json!({ "file": name, "tests": tests, "failed": failed })
        );
    } else {
        for test in &failed {
            out!("{name}:{test}");
        }
        match (tests, failed.len()) {
            (0, _) => {
                out!("{name} holds no tests: add [[test]] with a change and the keys it removes")
            }
            (tests, 0) => out!("{tests} tests pass"),
            (tests, failed) => out!("{failed} of {tests} tests fail"),
        }
    }
    let has_passed = failed.is_empty();
    Ok(ExitCode::from(if has_passed { 0 } else { FAILED }))
}

/// The keys of a matching rule: those that the change removes, and those whose price has not moved enough.
struct ExplainedRule<'a> {
    matched: &'a RuleMatch<'a>,
    removed: Vec<String>,
    kept: Vec<String>,
}

fn explain(settings: &Settings, args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let rules = match (&args.rules, settings.rules.rules_file.exists()) {
        (Some(path), _) => Arc::new(file(settings, Some(path))?.1),
        (None, true) => Arc::new(file(settings, None)?.1),
        (None, false) => Arc::clone(Rules::builtin()),
    };
    let change = parse_change(&args.change)?;
    let matches = rules.match_change(&change, None);
    let unmet = rules.near_misses(&change);
    let explained = matches.iter().map(|matched| {
        let targets = |is_removed: bool| {
            let targets = matched.targets.iter();
            let targets = targets.filter(|target| change.moved_enough_for(target) == is_removed);
            targets.map(|planned| planned.target.to_string()).collect()
        };
        ExplainedRule {
            matched,
            removed: targets(true),
            kept: targets(false),
        }
    });
    let explained: Vec<ExplainedRule> = explained.collect();
    if args.json {
        let matched = explained.iter().map(ExplainedRule::to_json);
        let matched: Vec<Value> = matched.collect();
        let unmet = unmet.iter();
        let unmet = unmet.map(|(rule, why)| json!({ "rule": &*rule.name, "why": why }));
        let unmet: Vec<Value> = unmet.collect();
        let version = &**rules.version();
        let object = json!({ "version": version, "matched": matched, "not_matched": unmet });
        out!("{object}");
        return Ok(ExitCode::SUCCESS);
    }
    if matches.is_empty() {
        out!("no rule is for this change: it removes nothing");
    }
    explained.iter().for_each(ExplainedRule::print);
    // If any rule matches, the rules for other tasks and tables are not worth a line.
    let about_others =
        |why: &str| why.starts_with("only for task") || why.starts_with("only for table");
    for (rule, why) in unmet {
        if matches.is_empty() || !about_others(&why) {
            out!("rule {} does not match: {why}", rule.name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl ExplainedRule<'_> {
    fn to_json(&self) -> Value {
        let (matched, rule) = (self.matched, self.matched.rule);
        let targets: Vec<&str> = rule.targets.iter().map(|t| t.text.as_str()).collect();
        json!({
            "rule": &*rule.name, "then": rule.action.as_str(), "reason": matched.reason, "targets": targets,
            "keys": self.removed, "held": self.kept, "errors": matched.errors,
        })
    }

    fn print(&self) {
        let (matched, rule) = (self.matched, self.matched.rule);
        let (reason, action) = (matched.reason, rule.action.as_str());
        out!("rule {} ({reason}, {action})", rule.name);
        for target in &rule.targets {
            out!("  target {}", target.text);
        }
        for key in &self.removed {
            out!("    -> {key}");
        }
        for key in &self.kept {
            out!("    keeps {key}: the price has not moved far enough");
        }
        for fault in &matched.errors {
            out!("    error: {fault}");
        }
    }
}

/// Parses a change from the command line.
pub fn parse_change(text: &str) -> anyhow::Result<RuleChange> {
    let value: Value = serde_json::from_str(text).map_err(|why| {
        InvalidSetting(format!(
            "--change is not JSON: {why}; write --change '{{\"change\":\"price_changed\",\"event_id\":\"rac_1\"}}'"
        ))
    })?;
    Ok(RuleChange::parse(&value).map_err(|why| InvalidSetting(format!("--change: {why}")))?)
}

fn file(settings: &Settings, path: Option<&Path>) -> anyhow::Result<(String, Rules)> {
    let path = path.unwrap_or(&settings.rules.rules_file);
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|why| {
        InvalidSetting(format!(
            "cannot read {name}: {why}; pass the rules file, or set RULES_FILE"
        ))
    })?;
    let rules = Rules::parse(&name, &text).map_err(|why| InvalidSetting(why.to_string()))?;
    Ok((name, rules))
}
