//! `rules`: validates, tests and explains a rules file. It contacts neither the database nor the cache.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::FAILED;
use super::output::out;
use crate::config::{InvalidSetting, Settings};
use oddsd_core::rules::{PlannedTarget, RuleChange, RuleMatch, Rules};

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
        let all: Vec<Value> = rules.iter().map(|rule| json!(&*rule.name)).collect();
        out!(
            "{}",
            json!({ "file": name, "version": &**rules.version(), "rules": all, "tests": tests, "tests_failed": failed.len() })
        );
    } else {
        out!(
            "{name}: valid; with the built-in ones it has {} rules (version {})",
            rules.iter().len(),
            rules.version()
        );
        if !failed.is_empty() {
            out!(
                "{} of its {tests} tests fail: oddsd rules test {name}",
                failed.len()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn test(settings: &Settings, args: &FileArgs) -> anyhow::Result<ExitCode> {
    let (name, rules) = file(settings, args.file.as_deref())?;
    let (tests, failed) = rules.run_tests();
    if args.json {
        let failed: Vec<Value> = failed
            .iter()
            .map(|test| {
                json!({ "line": test.line, "name": test.name, "missing": test.missing, "extra": test.extra, "faults": test.faults })
            })
            .collect();
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
    Ok(match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

/// The keys of a matching rule: those that the change removes, and those whose price has not moved enough.
struct ExplainedRule<'a> {
    hit: &'a RuleMatch<'a>,
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
    let hits = rules.match_change(&change, None);
    let unmet = rules.near_misses(&change);
    let explained = hits.iter().map(|hit| {
        let (removed, kept): (Vec<_>, Vec<_>) = hit
            .targets
            .iter()
            .partition(|aim| change.moved_enough_for(aim));
        let texts =
            |aims: &[&PlannedTarget]| aims.iter().map(|aim| aim.target.to_string()).collect();
        let (removed, kept) = (texts(&removed), texts(&kept));
        ExplainedRule { hit, removed, kept }
    });
    let explained: Vec<ExplainedRule> = explained.collect();
    if args.json {
        let matched: Vec<Value> = explained
            .iter()
            .map(|ExplainedRule { hit, removed, kept }| {
                let targets: Vec<&str> = hit.rule.targets.iter().map(|target| target.text.as_str()).collect();
                json!({
                    "rule": &*hit.rule.name, "then": hit.rule.action.as_str(), "reason": hit.reason, "targets": targets,
                    "keys": removed, "held": kept, "errors": hit.errors,
                })
            })
            .collect();
        let unmet: Vec<Value> = unmet
            .iter()
            .map(|(rule, why)| json!({ "rule": &*rule.name, "why": why }))
            .collect();
        out!(
            "{}",
            json!({ "version": &**rules.version(), "matched": matched, "not_matched": unmet })
        );
        return Ok(ExitCode::SUCCESS);
    }
    if hits.is_empty() {
        out!("no rule is for this change: it removes nothing");
    }
    explained.iter().for_each(print_rule);
    // If any rule matches, the rules for other tasks and tables are not worth a line.
    let about_others =
        |why: &str| why.starts_with("only for task") || why.starts_with("only for table");
    let unmet = unmet
        .into_iter()
        .filter(|(_, why)| hits.is_empty() || !about_others(why));
    for (rule, why) in unmet {
        out!("rule {} does not match: {why}", rule.name);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_rule(ExplainedRule { hit, removed, kept }: &ExplainedRule) {
    let rule = hit.rule;
    let (reason, then) = (hit.reason, rule.action.as_str());
    out!("rule {} ({reason}, {then})", rule.name);
    for target in &rule.targets {
        out!("  target {}", target.text);
    }
    for key in removed {
        out!("    -> {key}");
    }
    for key in kept {
        out!("    keeps {key}: the price has not moved far enough");
    }
    for fault in &hit.errors {
        out!("    error: {fault}");
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
