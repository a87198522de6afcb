//! A change as rules see it: kinds, fields, and the prices that changed.
//! The relay builds it from an outbox row, the CLI and the tests of rules files from JSON.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::diagnostic::unknown;
use super::movement::{PriceDelta, parse_percent};
use super::template::Binding;
use crate::model::{ChangeKind, EventId, EventStatus};

/// A change: one row of the outbox, or a reported one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleChange {
    /// Its kinds.
    pub kinds: BTreeSet<ChangeKind>,
    /// Its fields, each with all values: an event that moved has two leagues.
    pub fields: FieldValues,
    /// Unknown rows of a table changed: a field without a value may have any.
    pub is_bulk: bool,
    /// The changed prices. `None`: not loaded, or not stored any more.
    pub prices: Option<Vec<PriceLine>>,
}

/// A changed price.
#[derive(Clone, Debug, PartialEq)]
pub struct PriceLine {
    /// Its market.
    pub market: String,
    /// Its bookmaker.
    pub bookmaker: String,
    /// Changed or withdrawn.
    pub kind: ChangeKind,
    /// Compared with the prices that a cache may show; `None` if it was not computed.
    pub moved: Option<PriceDelta>,
}

/// Names and their values; a list is enough for the few of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldValues(Vec<(String, Vec<String>)>);

impl FieldValues {
    /// Adds a value to a name, once.
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) if values.contains(&value) => {}
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    /// The values of a name; empty if it has none.
    pub fn get(&self, name: &str) -> &[String] {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or(&[], |(_, values)| values)
    }
}

/// The fields of an event; any other name is a field of the reporting program. All but the id may be unknown, for
/// example if the event is not stored any more.
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

impl RuleChange {
    /// A change of an event.
    pub fn for_event(kinds: BTreeSet<ChangeKind>, event: &EventId) -> Self {
        let mut fields = FieldValues::default();
        fields.add("event_id", event.as_str());
        Self {
            kinds,
            fields,
            ..Self::default()
        }
    }

    /// Adds the fields of an outbox row's detail: `{"table":…,"row":{…}}`, `{"task":…}`,
    /// `{"was":{"league_id":…}}`. Values that are no scalars are ignored.
    pub fn with_detail(mut self, detail: &str) -> Self {
        if let Ok(Value::Object(detail)) = serde_json::from_str(detail) {
            self.is_bulk |= detail.contains_key("rows");
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

    /// Reads a change as users write it: `{"change":"task_completed","task":"…","run_id":"…"}`. For a price,
    /// `market`, `bookmaker` and `movement` ("12%", or "state") name it and its movement.
    pub fn parse(written: &Value) -> Result<Self, String> {
        let Value::Object(members) = written else {
            return Err("a change is an object such as {\"change\":\"price_changed\",\"event_id\":\"rac_1\"}".into());
        };
        let kind = match members.get("change") {
            Some(Value::String(word)) => parse_kind(word)?,
            _ => {
                return Err(
                    "\"change\" is missing: the kind of change, such as \"price_changed\"".into(),
                );
            }
        };
        let mut change = Self {
            kinds: BTreeSet::from([kind]),
            is_bulk: members.contains_key("rows"),
            ..Self::default()
        };
        for (name, value) in members
            .iter()
            .filter(|(name, _)| *name != "change" && *name != "movement")
        {
            if matches!(value, Value::Null | Value::Array(_)) {
                return Err(format!("{name:?} must be a text, a number or true/false"));
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
            change.prices = Some(vec![PriceLine {
                market,
                bookmaker,
                kind,
                moved: members.get("movement").map(movement).transpose()?,
            }]);
        }
        Ok(change)
    }

    /// The values of a placeholder, except those of a single price.
    pub(super) fn binding(&self, name: &str) -> Binding<'_> {
        if name == "status" {
            return Binding::Values(every_status());
        }
        match self.fields.get(name) {
            // The event has one of them.
            [] if name == "current_status" && !self.is_bulk => Binding::Values(every_status()),
            [] if self.is_bulk => Binding::Any,
            [] if EVENT_FIELDS.contains(&name) && name != "event_id" => Binding::Any,
            [] => Binding::Missing,
            values if EVENT_FIELDS.contains(&name) && name != "event_id" => {
                Binding::EventValues(values)
            }
            values => Binding::Values(values),
        }
    }

    /// The entity that the log names: a field and its value.
    pub fn entity(&self) -> Option<(&'static str, &str)> {
        let mut known = ["event_id", "table", "task", "round_id"].into_iter();
        known.find_map(|name| Some((name, self.fields.get(name).first()?.as_str())))
    }
}

/// Reads a kind of change; the error suggests one.
pub(super) fn parse_kind(word: &str) -> Result<ChangeKind, String> {
    let known = ChangeKind::ALL.map(ChangeKind::as_str);
    ChangeKind::parse(word).ok_or_else(|| unknown("change", word, known))
}

fn movement(written: &Value) -> Result<PriceDelta, String> {
    match written {
        Value::String(word) if word == "state" => Ok(PriceDelta::StateChange),
        Value::String(word) => parse_percent(word).map(PriceDelta::from_ratio),
        _ => Err("\"movement\" is a percentage such as \"12%\", or \"state\"".into()),
    }
}

/// A key that contains a status is wrong under every status: the old one, the new one, and those that readers
/// requested in between.
fn every_status() -> &'static [String] {
    static ALL: LazyLock<[String; EventStatus::ALL.len()]> =
        LazyLock::new(|| EventStatus::ALL.map(|status| status.as_str().into()));
    &*ALL
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn change_reads_reported_fields_as_text() {
        let change = RuleChange::parse(&json!({
            "change": "row_changed", "table": "tlog", "op": "insert",
            "row": { "trig_id": 7, "user_id": "a b", "ok": true, "none": null },
        }))
        .expect("a change");
        assert_eq!(change.fields.get("trig_id"), ["7"]);
        assert_eq!(change.fields.get("user_id"), ["a b"]);
        assert_eq!(change.fields.get("ok"), ["true"]);
        assert!(change.fields.get("none").is_empty());
        assert_eq!(change.entity(), Some(("table", "tlog")));
        assert!(matches!(change.binding("none"), Binding::Missing));
    }

    #[test]
    fn change_that_is_malformed_is_refused_with_a_reason() {
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
            let error = RuleChange::parse(&written).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn change_of_league_has_both_leagues() {
        let kinds = BTreeSet::from([ChangeKind::EventChanged]);
        let mut change =
            RuleChange::for_event(kinds, &"e".into()).with_detail(r#"{"was":{"league_id":"old"}}"#);
        change.fields.add("league_id", "new");
        assert_eq!(change.fields.get("league_id"), ["old", "new"]);
        assert!(matches!(change.binding("venue"), Binding::Any));
        assert!(matches!(change.binding("run_id"), Binding::Missing));
        let Binding::Values(statuses) = change.binding("status") else {
            panic!("every status");
        };
        assert_eq!(statuses.len(), EventStatus::ALL.len());
    }
}
