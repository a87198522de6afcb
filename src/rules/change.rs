//! What happened, as far as a rule can ask.

use std::collections::BTreeSet;

use serde_json::Value;

use super::fault::suggestion;
use super::movement::Movement;
use super::template::Bound;
use crate::model::{ChangeKind, EventId, EventStatus};

/// One change: what stands in one row of the outbox, or was reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    pub kinds: BTreeSet<ChangeKind>,
    /// By name, each with all its values: an event that moved has two leagues.
    pub fields: Fields,
    /// Some rows of the table, nobody says which: what is not a field is left open.
    pub many: bool,
    /// The prices that changed. `None`: not looked up, or not known any more.
    pub lines: Option<Vec<Line>>,
}

/// One changed price.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub market: String,
    pub bookmaker: String,
    pub kind: ChangeKind,
    /// Against what a cache may show; `None` where nobody has worked that out.
    pub moved: Option<Movement>,
}

/// Names and values, few of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(Vec<(String, Vec<String>)>);

impl Fields {
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) if values.contains(&value) => {}
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    /// Empty: not said.
    pub fn get(&self, name: &str) -> &[String] {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or(&[], |(_, values)| values)
    }
}

/// What an event is known by; any other name is somebody's own field.
pub(super) const EVENT_FIELDS: [&str; 8] = [
    "event_id",
    "sport_id",
    "league_id",
    "venue",
    "status",
    "current_status",
    "market",
    "bookmaker",
];
/// Of an event, but not of its identity: left open when nobody knows it.
const OF_THE_EVENT: [&str; 6] = [
    "sport_id",
    "league_id",
    "venue",
    "current_status",
    "market",
    "bookmaker",
];

impl Change {
    pub fn of_event(kinds: BTreeSet<ChangeKind>, event: &EventId) -> Self {
        let mut fields = Fields::default();
        fields.add("event_id", event.as_str());
        Self {
            kinds,
            fields,
            ..Self::default()
        }
    }

    /// What an outbox row says beside its kinds and event: `{"table":…,"row":{…}}`, `{"task":…}`,
    /// `{"was":{"league_id":…}}`. What is no scalar is left out.
    pub fn detail(mut self, detail: &str) -> Self {
        if let Ok(Value::Object(detail)) = serde_json::from_str(detail) {
            self.many |= detail.contains_key("rows");
            for (name, value) in &detail {
                self.add(name, value);
            }
        }
        self
    }

    fn add(&mut self, name: &str, value: &Value) {
        match value {
            Value::Object(inner) if matches!(name, "row" | "was") => {
                inner.iter().for_each(|(name, value)| self.add(name, value));
            }
            Value::String(text) => self.fields.add(name, text.as_str()),
            Value::Number(_) | Value::Bool(_) => self.fields.add(name, value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => {}
        }
    }

    /// A change as people write it: `{"change":"task_completed","task":"…","run_id":"…"}`. For a price,
    /// `market`, `bookmaker` and `movement` ("12%", or "state") say which one and how far.
    pub fn parse(written: &Value) -> Result<Self, String> {
        let Value::Object(members) = written else {
            return Err("a change is an object such as {\"change\":\"price_changed\",\"event_id\":\"rac_1\"}".into());
        };
        let kind = match members.get("change") {
            Some(Value::String(word)) => ChangeKind::parse(word).ok_or_else(|| {
                let known = ChangeKind::ALL.map(ChangeKind::as_str);
                format!("unknown change {word:?}{}", suggestion(word, known))
            })?,
            _ => {
                return Err(
                    "\"change\" is missing: it says what happened, such as \"price_changed\""
                        .into(),
                );
            }
        };
        let mut change = Self {
            kinds: BTreeSet::from([kind]),
            many: members.contains_key("rows"),
            ..Self::default()
        };
        for (name, value) in members
            .iter()
            .filter(|(name, _)| *name != "change" && *name != "movement")
        {
            if matches!(value, Value::Null | Value::Array(_)) {
                return Err(format!("{name:?} is no text, number or true/false"));
            }
            change.add(name, value);
        }
        let needs = match kind {
            ChangeKind::RowChanged => Some("table"),
            ChangeKind::TaskCompleted => Some("task"),
            ChangeKind::Manual | ChangeKind::RoundEnded => None,
            _ => Some("event_id"),
        };
        if let Some(name) = needs.filter(|name| change.fields.get(name).is_empty()) {
            return Err(format!("{} needs {name:?}", kind.as_str()));
        }
        let one = |name: &str| change.fields.get(name).first().cloned();
        if let (Some(market), Some(bookmaker)) = (one("market"), one("bookmaker")) {
            change.lines = Some(vec![Line {
                market,
                bookmaker,
                kind,
                moved: members.get("movement").map(movement).transpose()?,
            }]);
        }
        Ok(change)
    }

    /// The value for a placeholder, apart from those of a line.
    pub(super) fn bound(&self, name: &str) -> Bound<'_> {
        if name == "status" {
            return Bound::Values(every_status());
        }
        match self.fields.get(name) {
            // It has one of them.
            [] if name == "current_status" && !self.many => Bound::Values(every_status()),
            [] if self.many || OF_THE_EVENT.contains(&name) => Bound::Any,
            [] => Bound::Missing,
            values => Bound::Values(values),
        }
    }

    /// What the log calls it: a field and its value.
    pub fn entity(&self) -> Option<(&'static str, &str)> {
        let mut known = ["event_id", "table", "task", "round_id"].into_iter();
        known.find_map(|name| Some((name, self.fields.get(name).first()?.as_str())))
    }
}

fn movement(written: &Value) -> Result<Movement, String> {
    match written {
        Value::String(word) if word == "state" => Ok(Movement::State),
        Value::String(word) => super::load::percent(word).map(Movement::exactly),
        _ => Err("\"movement\" is a percentage such as \"12%\", or \"state\"".into()),
    }
}

/// A key with a status in it is wrong under each of them: the old one, the new one, and what a
/// reader in between may have asked for.
fn every_status() -> &'static [String] {
    static ALL: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
        EventStatus::ALL
            .iter()
            .map(|status| status.as_str().into())
            .collect()
    });
    &ALL
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reported_fields_are_taken_as_text() {
        let change = Change::parse(&json!({
            "change": "row_changed", "table": "tlog", "op": "insert",
            "row": { "trig_id": 7, "user_id": "a b", "ok": true, "none": null },
        }))
        .expect("a change");
        assert_eq!(change.fields.get("trig_id"), ["7"]);
        assert_eq!(change.fields.get("user_id"), ["a b"]);
        assert_eq!(change.fields.get("ok"), ["true"]);
        assert!(change.fields.get("none").is_empty());
        assert_eq!(change.entity(), Some(("table", "tlog")));
        assert!(matches!(change.bound("none"), Bound::Missing));
    }

    #[test]
    fn what_is_no_change_is_refused_with_the_reason() {
        for (written, why) in [
            (json!([]), "object"),
            (json!({}), "change"),
            (
                json!({ "change": "price_chnaged" }),
                "did you mean \"price_changed\"",
            ),
            (json!({ "change": "price_changed" }), "event_id"),
            (json!({ "change": "row_changed", "row": {} }), "table"),
            (json!({ "change": "task_completed", "task": [] }), "task"),
        ] {
            let said = Change::parse(&written).expect_err(why);
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn an_event_that_moved_has_two_places() {
        let change = Change::of_event(BTreeSet::from([ChangeKind::EventChanged]), &"e".into())
            .detail(r#"{"was":{"league_id":"old"}}"#);
        let mut change = change;
        change.fields.add("league_id", "new");
        assert_eq!(change.fields.get("league_id"), ["old", "new"]);
        assert!(matches!(change.bound("venue"), Bound::Any));
        assert!(matches!(change.bound("run_id"), Bound::Missing));
        let Bound::Values(statuses) = change.bound("status") else {
            panic!("every status");
        };
        assert_eq!(statuses.len(), EventStatus::ALL.len());
    }
}
