//! Tests of rules files in both syntaxes, and of the rule index against a scan of all rules.

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::rule::{Conditions, FIELD_CONDITIONS};
use super::*;

fn rules(text: &str) -> Rules {
    Rules::parse("rules.toml", text).unwrap_or_else(|why| panic!("{why}"))
}

fn faults(text: &str) -> String {
    Rules::parse("rules.toml", text)
        .expect_err("faults")
        .to_string()
}

fn removed(rules: &Rules, change: Value) -> Vec<String> {
    let change = RuleChange::parse(&change).expect("a change");
    let mut found = BTreeSet::new();
    for hit in rules.match_change(&change, None) {
        assert!(hit.errors.is_empty(), "{:?}", hit.errors);
        let moved = |planned: &&PlannedTarget| change.moved_enough_for(planned);
        let planned = hit.targets.iter().filter(moved);
        found.extend(planned.map(|planned| planned.target.to_string()));
    }
    found.into_iter().collect()
}

#[test]
fn builtin_rules_pass_their_own_tests() {
    let (tests, failed) = Rules::builtin().run_tests();
    assert!(tests >= 2 && failed.is_empty(), "{failed:?}");
}

#[test]
fn rules_of_a_file_are_added_to_the_builtin_ones() {
    let ours = rules(
        "[[rule]]\nname = \"stats\"\non = \"row_changed\"\nwhen = { table = \"tlog\" }\nkeys = [\"stats:site\", \"user:{user_id}\"]\n",
    );
    let row = json!({ "change": "row_changed", "table": "tlog", "row": { "user_id": 3 } });
    assert_eq!(removed(&ours, row), ["stats:site", "user:3"]);
    let other = json!({ "change": "row_changed", "table": "items", "row": { "user_id": 3 } });
    assert!(
        removed(&ours, other).is_empty(),
        "a table without rules does nothing"
    );
    let many = json!({ "change": "row_changed", "table": "tlog", "rows": 1000000 });
    assert_eq!(removed(&ours, many), ["stats:site", "user:*"]);
    let price = json!({ "change": "price_changed", "event_id": "e", "current_status": "live" });
    assert_eq!(removed(&ours, price.clone()).len(), 4);
    let alone = rules(
        "builtin = false\n[[rule]]\nname = \"x\"\non = [\"price_changed\"]\nkeys = [\"x:{event_id}\"]\n",
    );
    assert_eq!(removed(&alone, price), ["x:e"]);
}

#[test]
fn rules_in_json_load() {
    let text = r#"{
  "version": "1.4", "description": "ours",
  "rules": {
    "build_climate": { "invalidates_cache": ["climate", "overview"], "timeout": 30 },
    "nothing": { "invalidates_cache": [] }
  },
  "cache_keys": { "climate": "climate:{run_id}:v2", "overview": "overview", "pages": "page:{run_id}:*" }
}"#;
    let rules = Rules::parse("rules.json", text).unwrap_or_else(|why| panic!("{why}"));
    assert!(rules.version().starts_with("1.4 "), "{}", rules.version());
    let done = json!({ "change": "task_completed", "task": "build_climate", "run_id": "ab-12" });
    assert_eq!(removed(&rules, done), ["climate:ab-12:v2", "overview"]);
    let unknown = json!({ "change": "task_completed", "task": "other" });
    assert!(
        removed(&rules, unknown).is_empty(),
        "an unknown task is no error"
    );
    let without =
        RuleChange::parse(&json!({ "change": "task_completed", "task": "build_climate" }))
            .expect("a change");
    let hits = rules.match_change(&without, None);
    assert_eq!(hits[0].targets.len(), 1, "the target that can be rendered");
    assert!(hits[0].errors[0].contains("run_id"), "{:?}", hits[0].errors);

    for (right, wrong, diagnostic) in [
        (
            "\"overview\"]",
            "\"overveiw\"]",
            "rules.json:4:57: unknown cache \"overveiw\" (did you mean \"overview\"?)",
        ),
        (
            "\"timeout\": 30",
            "\"timeout\" 30",
            "rules.json:4:80: expected `:`",
        ),
    ] {
        let why = Rules::parse("rules.json", &text.replace(right, wrong)).expect_err(wrong);
        assert_eq!(why.to_string(), diagnostic);
    }
}

#[test]
fn diagnostics_have_positions_and_suggestions() {
    let text = r#"versoin = 3
[[rule]]
name = "a"
on = ["odd_move", "price_chnaged"]
keys = ["x:{event}"]
[[rule]]
name = "b"
on = ["price_changed"]
when = { table = "t", sprot = "x" }
keys = ["odds:{evnt_id}"]
then = "warm"
[[rule]]
name = "c"
on = ["row_changed"]
patterns = ["a:*:b"]
tags = ["t:{id}"]
[[rule]]
name = "d"
on = ["price_changed"]
keys = ['races:by-stege:v1']
"#;
    let found = faults(text);
    for line in [
        "rules.toml:1:1: unknown field \"versoin\" in the file (did you mean \"version\"?)",
        "rules.toml:4:7: unknown change \"odd_move\" (one of ",
        "rules.toml:4:19: unknown change \"price_chnaged\" (did you mean \"price_changed\"?)",
        "rules.toml:9:10: price_changed has no table, so this can never be met",
        "rules.toml:9:23: unknown field \"sprot\" in `when` (did you mean \"sport\"?)",
        "rules.toml:10:9: price_changed has no {evnt_id} (did you mean \"event_id\"?)",
        "rules.toml:11:1: unknown then \"warm\" (one of remove, remove_and_warm, mark_stale)",
        "rules.toml:15:13: the pattern \"a:*:b\" cannot be reached",
        "rules.toml:16:9: \"t:{id}\" cannot be reached when one statement changes many rows",
        "by-stege:v1\": no reader has it (did you mean ",
    ] {
        assert!(found.contains(line), "{line}\n--- found:\n{found}");
    }
    let others = "[caches]\nx = 'races:by-stege:v1'\n[[rule]]\nname = \"d\"\non = [\"price_changed\"]\ncaches = [\"x\"]\nkeys = ['races:by-stage:v2', 'odds:latest:{event_id}']\n";
    assert_eq!(
        rules(others).iter().len(),
        Rules::builtin().iter().len() + 1
    );
    assert!(faults("[[rule]]\nname = 1\n").contains("name is a text, not a number"));
    assert!(faults("a = = 1").starts_with("rules.toml:1:5: "));
    assert!(faults("[rule]\n").contains("write [[rule]]"));
}

#[test]
fn duplicate_rule_is_refused() {
    let one = "[[rule]]\nname = \"a\"\non = [\"manual\"]\nkeys = [\"x\"]\n";
    assert!(
        faults(&one.repeat(2)).contains("5:1: duplicate rule \"a\""),
        "{}",
        faults(&one.repeat(2))
    );
    let same = format!("{one}{}", one.replace("\"a\"", "\"b\""));
    assert!(faults(&same).contains("duplicate rule \"b\": \"a\" says the same"));
    assert!(faults(&one.replace("\"a\"", "\"live-odds\"")).contains("built in"));
}

#[test]
fn conditions_restrict_and_an_unknown_value_meets_them() {
    let rules = rules(
        "builtin = false\n[[rule]]\nname = \"gb\"\non = [\"event_changed\"]\nwhen = { sport = \"horse_racing\", league = [\"GB\", \"IRE\"] }\nkeys = [\"gb:{event_id}\"]\n",
    );
    let event = |sport: &str, league: &str| json!({ "change": "event_changed", "event_id": "e", "sport_id": sport, "league_id": league });
    assert_eq!(removed(&rules, event("horse_racing", "IRE")), ["gb:e"]);
    assert!(removed(&rules, event("horse_racing", "FR")).is_empty());
    assert!(removed(&rules, event("tennis", "GB")).is_empty());
    assert_eq!(
        removed(
            &rules,
            json!({ "change": "event_changed", "event_id": "e" })
        ),
        ["gb:e"]
    );
    let change = RuleChange::parse(&event("horse_racing", "FR")).expect("a change");
    assert_eq!(rules.near_misses(&change)[0].1, "only for league GB, IRE");
}

#[test]
fn movement_rule_ignores_small_movements() {
    let rules = rules(
        "builtin = false\n[[rule]]\nname = \"m\"\non = [\"price_changed\"]\nwhen = { market = \"win\", movement = \"significant\" }\nkeys = [\"best:{event_id}:{bookmaker}\"]\n",
    );
    let price = |market: &str, movement: &str| json!({ "change": "price_changed", "event_id": "e", "market": market, "bookmaker": "b1", "movement": movement });
    assert_eq!(removed(&rules, price("win", "10.1%")), ["best:e:b1"]);
    assert!(removed(&rules, price("win", "10%")).is_empty());
    assert!(removed(&rules, price("place", "50%")).is_empty());
    assert_eq!(removed(&rules, price("win", "state")), ["best:e:b1"]);
    let unknown = json!({ "change": "price_changed", "event_id": "e" });
    assert_eq!(
        removed(&rules, unknown.clone()),
        ["best:e:*"],
        "unknown prices are removed"
    );
    let change = RuleChange::parse(&unknown).expect("a change");
    assert!(rules.needs_price_changes(&change) && rules.tracks_movement());
    assert_eq!(rules.match_change(&change, None)[0].reason, "ODDS_MOVEMENT");
    assert!(!Rules::builtin().needs_price_changes(&change) && !Rules::builtin().tracks_movement());
}

#[test]
fn rule_tests_find_a_wrong_rule() {
    let text = "[[rule]]\nname = \"a\"\non = [\"task_completed\"]\nkeys = [\"x:{run_id}\"]\n[[test]]\nname = \"t\"\nchange = { change = \"task_completed\", task = \"b\", run_id = \"7\" }\nremoves = [\"x:8\"]\n";
    let (tests, failed) = rules(text).run_tests();
    assert_eq!(tests, 1);
    assert_eq!(
        failed[0].to_string(),
        "5: test \"t\" fails; not removed: x:8; removed as well: x:7"
    );
    assert!(
        faults("[[test]]\nname = \"t\"\nchange = { change = \"x\" }\n")
            .contains("3:10: unknown change")
    );
}

#[test]
fn reason_is_the_most_important_one() {
    use ChangeKind as K;
    for (kinds, after, reason) in [
        ([K::PriceChanged, K::StatusChanged], None, "STATUS_CHANGE"),
        (
            [K::StatusChanged; 2],
            Some(EventStatus::Abandoned),
            "CANCELLED",
        ),
        (
            [K::StatusChanged; 2],
            Some(EventStatus::Postponed),
            "POSTPONED",
        ),
        ([K::PriceChanged, K::SelectionChanged], None, "PRICE_CHANGE"),
    ] {
        assert_eq!(removal_reason(kinds, after), reason);
    }
    for kind in K::ALL {
        assert!(REASONS.contains(&removal_reason([kind], None)), "{kind:?}");
    }
}

#[test]
fn rules_version_differs_for_different_texts() {
    let one = rules("version = 3\n");
    let two = rules("version = 3\n# another\n");
    assert!(one.version().starts_with("3 ") && one.version() != two.version());
    assert_eq!(&**Rules::builtin().version(), "built-in");
}

/// Values that rules and changes share, so that some match.
const VALUES: [&str; 4] = ["a", "b", "c:*", "d"];
const KINDS: [ChangeKind; 5] = [
    ChangeKind::PriceChanged,
    ChangeKind::EventChanged,
    ChangeKind::StatusChanged,
    ChangeKind::RowChanged,
    ChangeKind::TaskCompleted,
];

/// The values that a rule accepts of each field; none: any.
type AcceptedValues = [BTreeSet<usize>; 5];

fn wanted() -> impl Strategy<Value = AcceptedValues> {
    // Mostly none: a rule with conditions on every field matches nothing.
    let some = || prop_oneof![3 => Just(BTreeSet::new()), 1 => btree_set(0..VALUES.len(), 1..3)];
    [some(), some(), some(), some(), some()]
}

fn rule_with(name: usize, on: &BTreeSet<usize>, wanted: &AcceptedValues) -> Rule {
    let values = |at: usize| -> Vec<String> {
        let wanted = wanted[at].iter();
        wanted.map(|at| VALUES[*at].to_owned()).collect()
    };
    Rule {
        name: name.to_string().into(),
        on: on.iter().map(|at| KINDS[*at]).collect(),
        when: Conditions {
            fields: std::array::from_fn(values),
            ..Conditions::default()
        },
        targets: vec![
            Template::parse(TargetKind::Key, &format!("k{name}:{{event_id}}")).expect("valid"),
        ],
        action: Action::Remove,
        reason: None,
    }
}

fn change_with(kinds: &BTreeSet<usize>, values: &[BTreeSet<usize>; 5]) -> RuleChange {
    let mut change = RuleChange {
        kinds: kinds.iter().map(|at| KINDS[*at]).collect(),
        ..RuleChange::default()
    };
    for ((_, field), wanted) in FIELD_CONDITIONS.iter().zip(values) {
        for at in wanted {
            change.fields.add(field, VALUES[*at]);
        }
    }
    change
}

/// Checks every condition of every rule.
fn matching_rules<'a>(rules: &'a Rules, change: &RuleChange) -> Vec<&'a str> {
    let met = |((_, field), wanted): (&(&str, &str), &Vec<String>)| {
        let values = change.fields.get(field);
        wanted.is_empty() || values.is_empty() || values.iter().any(|value| wanted.contains(value))
    };
    let met = rules.iter().filter(|rule| {
        rule.on.iter().any(|kind| change.kinds.contains(kind))
            && FIELD_CONDITIONS.iter().zip(&rule.when.fields).all(met)
    });
    met.map(|rule| &*rule.name).collect()
}

proptest! {
    #[test]
    fn rule_index_finds_what_a_scan_finds(
        all in vec((btree_set(0..KINDS.len(), 1..4), wanted()), 0..25),
        kinds in btree_set(0..KINDS.len(), 1..4),
        values in wanted(),
    ) {
        let all = all.iter().enumerate().map(|(name, (on, wanted))| rule_with(name, on, wanted));
        let rules = Rules::new("test".into(), all.collect(), Vec::new());
        let change = change_with(&kinds, &values);
        let hits = rules.match_change(&change, None);
        let found: Vec<&str> = hits.iter().map(|hit| &*hit.rule.name).collect();
        prop_assert_eq!(&found, &matching_rules(&rules, &change));
        for hit in hits {
            let events = change.fields.get("event_id").len();
            prop_assert_eq!(hit.targets.len() + hit.errors.len(), events.max(1), "{:?}", hit);
        }
    }
}
