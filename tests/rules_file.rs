//! Tests that the JSON schema of rules files agrees with the loader, and that the built-in and example files are
//! valid and pass their own tests.

use std::collections::BTreeSet;

use oddsd_core::model::ChangeKind;
use oddsd_core::rules::{Action, REASONS, Rules};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

const SCHEMA: &str = include_str!("../deploy/rules.schema.json");
const EXAMPLE: &str = include_str!("../deploy/rules.toml");
const BUILT_IN: &str = include_str!("../crates/core/src/rules/default.toml");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("JSON")
}

fn members(of: &Value) -> BTreeSet<String> {
    of.as_object().expect("an object").keys().cloned().collect()
}

fn words(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().expect("a list").iter();
    list.map(|word| word.as_str().expect("a word").to_owned())
        .collect()
}

/// The names that the loader suggests for a field that is like none of them.
fn accepted(text: &str) -> BTreeSet<String> {
    let error = Rules::parse("rules.toml", text)
        .expect_err("an unknown field")
        .to_string();
    let line = error
        .lines()
        .find(|line| line.contains("unknown field \"qqqqqqqqqqqq\""))
        .unwrap_or_else(|| panic!("{error}"));
    let list = line
        .split_once("(one of ")
        .and_then(|(_, list)| list.strip_suffix(')'));
    list.unwrap_or_else(|| panic!("{line}"))
        .split(", ")
        .map(str::to_owned)
        .collect()
}

#[test]
fn rules_schema_names_what_the_loader_accepts() {
    let schema = schema();
    let places = [
        ("/properties", "qqqqqqqqqqqq = 1"),
        (
            "/properties/movement/properties",
            "[movement]\nqqqqqqqqqqqq = 1",
        ),
        ("/definitions/rule/properties", "[[rule]]\nqqqqqqqqqqqq = 1"),
        (
            "/definitions/when/properties",
            "[[rule]]\nname = \"a\"\non = [\"manual\"]\nwhen = { qqqqqqqqqqqq = 1 }\nkeys = [\"x\"]",
        ),
        ("/definitions/test/properties", "[[test]]\nqqqqqqqqqqqq = 1"),
    ];
    for (place, text) in places {
        let named = members(schema.pointer(place).expect(place));
        if named.len() > 1 {
            assert_eq!(named, accepted(text), "{place}");
        } else {
            let error = Rules::parse("rules.toml", text)
                .expect_err("unknown")
                .to_string();
            assert!(
                named.iter().all(|name| error.contains(name.as_str())),
                "{error}"
            );
        }
        let table = place.strip_suffix("/properties").expect("a table");
        assert_eq!(
            schema.pointer(&format!("{table}/additionalProperties")),
            Some(&Value::Bool(false)),
            "{place}"
        );
    }
    let kinds = ChangeKind::ALL.map(|kind| kind.as_str().to_owned());
    assert_eq!(
        words(&schema["definitions"]["change"]["enum"]),
        BTreeSet::from(kinds)
    );
    let rule = &schema["definitions"]["rule"]["properties"];
    let then = Action::ALL.map(|then| then.as_str().to_owned());
    assert_eq!(words(&rule["then"]["enum"]), BTreeSet::from(then));
    let reasons = REASONS.map(str::to_owned);
    assert_eq!(words(&rule["reason"]["enum"]), BTreeSet::from(reasons));
}

/// Validates types, names, choices and required fields.
fn validate(schema: &Value, rule: &Value, value: &Value, place: &str) {
    if let Some(name) = rule["$ref"].as_str() {
        let rule = schema.pointer(name.trim_start_matches('#')).expect(name);
        return validate(schema, rule, value, place);
    }
    if let Some(choices) = rule["oneOf"].as_array() {
        let of_type = |choice: &&Value| {
            let choice = match choice["$ref"].as_str() {
                Some(name) => schema.pointer(name.trim_start_matches('#')).expect(name),
                None => choice,
            };
            has_type(&choice["type"], value)
        };
        let choice = choices
            .iter()
            .find(of_type)
            .unwrap_or_else(|| panic!("{place}: {value}"));
        return validate(schema, choice, value, place);
    }
    assert!(has_type(&rule["type"], value), "{place}: {value}");
    if !rule["enum"].is_null() {
        assert!(
            words(&rule["enum"]).contains(value.as_str().expect("a word")),
            "{place}: {value}"
        );
    }
    match value {
        Value::Object(members) => {
            for name in rule["required"].as_array().into_iter().flatten() {
                assert!(
                    members.contains_key(name.as_str().expect("a name")),
                    "{place} has no {name}"
                );
            }
            for (name, value) in members {
                let known = &rule["properties"][name];
                match (known, &rule["additionalProperties"]) {
                    (Value::Null, Value::Bool(false)) => {
                        panic!("{place}.{name} is not in the schema")
                    }
                    (Value::Null, Value::Null) => {}
                    (Value::Null, other) => {
                        validate(schema, other, value, &format!("{place}.{name}"))
                    }
                    (known, _) => validate(schema, known, value, &format!("{place}.{name}")),
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| validate(schema, &rule["items"], item, place)),
        _ => {}
    }
}

fn has_type(types: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        other => panic!("{other} is no type that the schema uses"),
    };
    match types {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    }
}

fn json(value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => serde_json::from_str(&number.to_string()).expect("a number"),
        DeValue::Float(number) => serde_json::from_str(number.as_str()).expect("a number"),
        DeValue::Boolean(flag) => Value::Bool(flag),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => items
            .into_iter()
            .map(|item| json(item.into_inner()))
            .collect(),
        DeValue::Table(members) => members
            .into_iter()
            .map(|(name, value)| (name.into_inner().into_owned(), json(value.into_inner())))
            .collect(),
    }
}

#[test]
fn rules_schema_accepts_the_builtin_and_example_files() {
    let schema = schema();
    for (name, text) in [("built in", BUILT_IN), ("example", EXAMPLE)] {
        let table = DeTable::parse(text).unwrap_or_else(|why| panic!("{name}: {why}"));
        let value = json(DeValue::Table(table.into_inner()));
        validate(&schema, &schema, &value, name);
    }
}

#[test]
fn rules_example_passes_its_own_tests() {
    let rules = Rules::parse("rules.toml", EXAMPLE).unwrap_or_else(|why| panic!("{why}"));
    let (tests, failed) = rules.run_tests();
    assert!(tests >= 6 && failed.is_empty(), "{failed:?}");
    assert!(
        rules.version().starts_with("2024-1 "),
        "{}",
        rules.version()
    );
    assert!(EXAMPLE.starts_with("#:schema ./rules.schema.json\n"));
}
