//! Stories of rules as their author tells them, of both spellings.

use serde_json::{Value, json};

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
    let change = Change::parse(&change).expect("a change");
    let mut found = BTreeSet::new();
    for hit in rules.decide(&change, None) {
        assert!(hit.faults.is_empty(), "{:?}", hit.faults);
        let aims = hit.aims.iter().filter(|aim| change.holds(aim));
        found.extend(aims.map(|aim| aim.target.to_string()));
    }
    found.into_iter().collect()
}

#[test]
fn the_built_in_rules_pass_their_own_tests() {
    let (tests, failed) = Rules::builtin().test();
    assert!(tests >= 2 && failed.is_empty(), "{failed:?}");
}

#[test]
fn rules_of_a_file_stand_beside_the_built_in_ones() {
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
fn the_other_spelling_loads_unchanged() {
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
    let without = Change::parse(&json!({ "change": "task_completed", "task": "build_climate" }))
        .expect("a change");
    let hits = rules.decide(&without, None);
    assert_eq!(hits[0].aims.len(), 1, "the target that can be spelt is");
    assert!(hits[0].faults[0].contains("run_id"), "{:?}", hits[0].faults);

    let wrong = text.replace("\"overview\"]", "\"overveiw\"]");
    let why = Rules::parse("rules.json", &wrong)
        .expect_err("unknown cache")
        .to_string();
    assert!(
        why.starts_with("rules.json:4:57: unknown cache \"overveiw\" (did you mean \"overview\"?)"),
        "{why}"
    );
}

#[test]
fn every_mistake_is_told_with_its_place_and_a_suggestion() {
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
    let said = faults(text);
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
        assert!(said.contains(line), "{line}\n--- said:\n{said}");
    }
    let others = "[caches]\nx = 'races:by-stege:v1'\n[[rule]]\nname = \"d\"\non = [\"price_changed\"]\ncaches = [\"x\"]\nkeys = ['races:by-stage:v2', 'odds:latest:{event_id}']\n";
    assert_eq!(rules(others).len(), Rules::builtin().len() + 1);
    assert!(faults("[[rule]]\nname = 1\n").contains("name is a text, not a number"));
    assert!(faults("a = = 1").starts_with("rules.toml:1:5: "));
    assert!(faults("[rule]\n").contains("write [[rule]]"));
}

#[test]
fn the_same_rule_twice_is_a_mistake() {
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
fn conditions_narrow_and_what_nobody_knows_counts_as_met() {
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
    let change = Change::parse(&event("horse_racing", "FR")).expect("a change");
    assert_eq!(rules.near_misses(&change)[0].1, "only for league GB, IRE");
}

#[test]
fn small_movements_remove_nothing_under_a_movement_rule() {
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
        "what nobody looked up is removed"
    );
    let change = Change::parse(&unknown).expect("a change");
    assert!(rules.ask_for_lines(&change) && rules.watch_movement());
    assert_eq!(rules.decide(&change, None)[0].reason, "ODDS_MOVEMENT");
    assert!(!Rules::builtin().ask_for_lines(&change) && !Rules::builtin().watch_movement());
}

#[test]
fn tests_in_the_file_find_a_wrong_rule() {
    let text = "[[rule]]\nname = \"a\"\non = [\"task_completed\"]\nkeys = [\"x:{run_id}\"]\n[[test]]\nname = \"t\"\nchange = { change = \"task_completed\", task = \"b\", run_id = \"7\" }\nremoves = [\"x:8\"]\n";
    let (tests, failed) = rules(text).test();
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
fn reasons_tell_what_readers_care_about_most() {
    use ChangeKind as K;
    assert_eq!(
        reason([K::PriceChanged, K::StatusChanged], None),
        "STATUS_CHANGE"
    );
    assert_eq!(
        reason([K::StatusChanged], Some(EventStatus::Abandoned)),
        "CANCELLED"
    );
    assert_eq!(
        reason([K::StatusChanged], Some(EventStatus::Postponed)),
        "POSTPONED"
    );
    assert_eq!(
        reason([K::PriceChanged, K::SelectionChanged], None),
        "PRICE_CHANGE"
    );
    for kind in K::ALL {
        assert!(REASONS.contains(&reason([kind], None)), "{kind:?}");
    }
}

#[test]
fn a_version_tells_one_text_from_another() {
    let one = rules("version = 3\n");
    let two = rules("version = 3\n# another\n");
    assert!(one.version().starts_with("3 ") && one.version() != two.version());
    assert_eq!(&**Rules::builtin().version(), "built-in");
}
