//! Looking rules up comes to the same as asking each of them.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

/// Values that rules and changes both have, so that they meet now and then.
const VALUES: [&str; 4] = ["a", "b", "c:*", "d"];
const KINDS: [ChangeKind; 5] = [
    ChangeKind::PriceChanged,
    ChangeKind::EventChanged,
    ChangeKind::StatusChanged,
    ChangeKind::RowChanged,
    ChangeKind::TaskCompleted,
];

/// Which values a rule wants of each field; none: any.
type Wanted = [BTreeSet<usize>; 5];

fn wanted() -> impl Strategy<Value = Wanted> {
    // Mostly none: a rule that asks for everything meets nothing.
    let some = || prop_oneof![3 => Just(BTreeSet::new()), 1 => btree_set(0..VALUES.len(), 1..3)];
    [some(), some(), some(), some(), some()]
}

fn rule(name: usize, on: &BTreeSet<usize>, wanted: &Wanted) -> Rule {
    let values = |at: usize| -> Vec<String> {
        let wanted = wanted[at].iter();
        wanted.map(|at| VALUES[*at].to_owned()).collect()
    };
    Rule {
        name: name.to_string().into(),
        on: on.iter().map(|at| KINDS[*at]).collect(),
        when: When {
            sports: values(0),
            leagues: values(1),
            events: values(2),
            tables: values(3),
            tasks: values(4),
            ..When::default()
        },
        targets: vec![
            Template::parse(Spelt::Key, &format!("k{name}:{{event_id}}")).expect("valid"),
        ],
        then: Then::Remove,
        reason: None,
    }
}

fn change(kinds: &BTreeSet<usize>, said: &[BTreeSet<usize>; 5]) -> Change {
    let mut change = Change {
        kinds: kinds.iter().map(|at| KINDS[*at]).collect(),
        ..Change::default()
    };
    for (field, values) in ["sport_id", "league_id", "event_id", "table", "task"]
        .iter()
        .zip(said)
    {
        for at in values {
            change.fields.add(field, VALUES[*at]);
        }
    }
    change
}

/// Every rule is read, and every word of it.
fn asked_one_by_one<'a>(rules: &'a Rules, change: &Change) -> Vec<&'a str> {
    let met = |wanted: &[String], field: &str| {
        let said = change.fields.get(field);
        wanted.is_empty() || said.is_empty() || said.iter().any(|value| wanted.contains(value))
    };
    let met = rules.iter().filter(|rule| {
        let when = &rule.when;
        rule.on.iter().any(|kind| change.kinds.contains(kind))
            && met(&when.sports, "sport_id")
            && met(&when.leagues, "league_id")
            && met(&when.events, "event_id")
            && met(&when.tables, "table")
            && met(&when.tasks, "task")
    });
    met.map(|rule| &*rule.name).collect()
}

proptest! {
    #[test]
    fn the_index_finds_what_reading_all_rules_finds(
        all in vec((btree_set(0..KINDS.len(), 1..4), wanted()), 0..25),
        kinds in btree_set(0..KINDS.len(), 1..4),
        said in wanted(),
    ) {
        let all = all.iter().enumerate().map(|(name, (on, wanted))| rule(name, on, wanted));
        let rules = Rules::new("law".into(), all.collect(), Vec::new());
        let change = change(&kinds, &said);
        let hits = rules.decide(&change, None);
        let found: Vec<&str> = hits.iter().map(|hit| &*hit.rule.name).collect();
        prop_assert_eq!(&found, &asked_one_by_one(&rules, &change));
        for hit in hits {
            let events = change.fields.get("event_id").len();
            prop_assert_eq!(hit.aims.len() + hit.faults.len(), events.max(1), "{:?}", hit);
        }
    }
}
