//! Property-test strategies that damage a valid text or JSON value.
//! The parsers' property tests use them.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// Overwrites, cuts and doubles bytes of a valid text.
pub fn mutated_text(valid: String) -> impl Strategy<Value = String> {
    let edits = prop::collection::vec((any::<Index>(), 0u8..4, any::<u8>()), 1..8);
    edits.prop_map(move |edits| {
        let mut bytes = valid.clone().into_bytes();
        for (at, how, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes[at] = b"0123456789-.eE\"[]{},:"[usize::from(byte) % 21],
                2 => drop(bytes.drain(at..(at + usize::from(byte)).min(bytes.len()))),
                _ => bytes.extend_from_within(at..),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Replaces some values anywhere in a valid document.
pub fn mutated_json(valid: Value) -> impl Strategy<Value = Value> {
    mutated_json_with(valid, vec![Value::Null])
}

/// [`mutated_json`], half of whose replacements are from `values`: those that mean something to the parser.
pub fn mutated_json_with(valid: Value, values: Vec<Value>) -> impl Strategy<Value = Value> {
    let replacement = prop_oneof![any_json(), prop::sample::select(values)];
    let edits = prop::collection::vec((any::<Index>(), replacement), 1..6);
    edits.prop_map(move |edits| {
        let mut value = valid.clone();
        for (at, replacement) in edits {
            let pointers = json_pointers(&value);
            let pointer = &pointers[at.index(pointers.len())];
            *value.pointer_mut(pointer).expect("just listed") = replacement;
        }
        value
    })
}

/// The JSON pointer of every value in a document; the first one, of the document itself, is empty.
fn json_pointers(value: &Value) -> Vec<String> {
    let mut pointers = Vec::new();
    collect_pointers(value, "", &mut pointers);
    pointers
}

fn collect_pointers(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(k, v)| collect_pointers(v, &format!("{at}/{k}"), into)),
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(n, v)| collect_pointers(v, &format!("{at}/{n}"), into));
        }
        _ => {}
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[0-9:/. -]{0,20}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[{"horse_id": "hrs_1"}]])),
    ]
}
