//! Whatever the document and however it comes in, the elements are those that a JSON parser sees.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;

type Cut = Result<(Vec<String>, Rest), Uncut>;

fn cut(list: List, before: &[Slice], text: &[u8], cuts: &[Index]) -> Cut {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    ends.push(text.len());
    ends.sort_unstable();
    let mut slicer = Slicer::new(list, MAX_REST, before.into());
    let mut elements = Vec::new();
    let mut each = |element: &[u8], slice: Slice| {
        assert_eq!(slice, Slice::of(element));
        elements.push(String::from_utf8_lossy(element).into_owned());
        Ok::<_, Uncut>(())
    };
    let mut from = 0;
    for end in ends {
        slicer.push(&text[from..end], &mut each)?;
        from = end;
    }
    let rest = slicer.finish(&mut each)?;
    Ok((elements, rest))
}

/// What serde_json sees in the list; `None` when the document is no JSON.
fn elements(list: List, text: &str) -> Option<Vec<String>> {
    let raw: &RawValue = match list {
        List::Whole => serde_json::from_str(text).ok()?,
        List::Named(name) => {
            let object: std::collections::HashMap<String, &RawValue> =
                serde_json::from_str(text).ok()?;
            object.get(name)?
        }
    };
    let raws: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    Some(raws.iter().map(|raw| raw.get().to_owned()).collect())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        r#"[\[\]\{\}"\\,: é]{0,80}"#.prop_map(Value::from),
        Just(json!("cards")),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("(cards|[a-z\"\\\\]{0,5})", inner, 0..6)
                .prop_map(Value::from_iter),
        ]
    })
}

/// A document that holds the list, spelt with or without white space.
fn document() -> impl Strategy<Value = (List, String)> {
    let list = prop::collection::vec(value(), 0..8);
    let around = prop::collection::hash_map("[a-z]{0,4}", value(), 0..4);
    (list, around, any::<bool>(), any::<bool>()).prop_map(|(list, around, named, pretty)| {
        let (list, json) = match named {
            true => {
                let mut around = Value::from_iter(around);
                around["cards"] = list.into();
                (List::Named("cards"), around)
            }
            false => (List::Whole, list.into()),
        };
        let text = match pretty {
            true => serde_json::to_string_pretty(&json),
            false => serde_json::to_string(&json),
        };
        (list, text.expect("JSON"))
    })
}

proptest! {
    #[test]
    fn the_elements_are_those_of_the_document(
        (list, text) in document(),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        mut order in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let expected = elements(list, &text).expect("JSON");
        let (found, rest) = cut(list, &[], text.as_bytes(), &cuts).expect("a document");
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(rest.bytes, text.len() as u64);
        prop_assert_eq!(rest.slices.len(), found.len());
        let around = String::from_utf8(rest.text).expect("UTF-8");
        prop_assert_eq!(elements(list, &around), Some(Vec::new()), "{}", around);

        // Whatever is expected to stand there, right or wrong.
        let mut before: Vec<Slice> = rest.slices.to_vec();
        if before.len() > 1 {
            for at in order.drain(..) {
                let at = at.index(before.len() - 1);
                before.swap(at, at + 1);
            }
        }
        for before in [rest.slices.as_ref(), &before] {
            let (again, _) = cut(list, before, text.as_bytes(), &cuts).expect("a document");
            prop_assert_eq!(&again, &expected);
        }
    }

    #[test]
    fn a_document_that_ends_early_is_no_document(
        (list, text) in document(),
        end in any::<Index>(),
        remembered: bool,
    ) {
        let before = match remembered {
            true => cut(list, &[], text.as_bytes(), &[]).expect("a document").1.slices,
            false => Arc::default(),
        };
        let end = end.index(text.len());
        if let Ok((_, rest)) = cut(list, &before, &text.as_bytes()[..end], &[]) {
            let around = serde_json::from_slice::<Value>(&rest.text);
            prop_assert!(around.is_err(), "{}", String::from_utf8_lossy(&rest.text));
        }
    }

    /// Only a document whose pieces are all JSON can be taken for one.
    #[test]
    fn bytes_that_flip_are_never_taken_for_json_that_they_are_not(
        (list, text) in document(),
        flips in prop::collection::vec((any::<Index>(), prop_oneof![Just(b','), Just(b'"'), Just(b']'), any::<u8>()]), 1..4),
    ) {
        let mut bytes = text.into_bytes();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok((found, rest)) = cut(list, &[], &bytes, &[]) {
            let is_json = |text: &[u8]| serde_json::from_slice::<&RawValue>(text).is_ok();
            let all = is_json(&rest.text) && found.iter().all(|element| is_json(element.as_bytes()));
            let text = String::from_utf8_lossy(&bytes);
            let is_document = serde_json::from_str::<&RawValue>(&text).is_ok();
            prop_assert!(!all || is_document, "{text}");
        }
    }
}

#[test]
fn an_element_costs_its_own_memory_and_not_the_documents() {
    let element = format!(r#"{{"runners":["{}"]}}"#, "x".repeat(99_980)).into_bytes();
    let mut slicer = Slicer::new(List::Named("racecards"), MAX_REST, Arc::default());
    let mut seen = 0;
    let mut each = |_: &[u8], slice: Slice| {
        seen += slice.len;
        Ok::<_, Uncut>(())
    };
    slicer
        .push(br#"{"racecards":["#, &mut each)
        .expect("a list");
    for n in 0..1_000 {
        for chunk in element.chunks(16_384) {
            slicer.push(chunk, &mut each).expect("an element");
            assert!(slicer.held() < 4 * element.len(), "{}", slicer.held());
        }
        let next: &[u8] = if n < 999 { b"," } else { b"]}" };
        slicer.push(next, &mut each).expect("what follows it");
    }
    slicer.finish(&mut each).expect("a document");
    assert_eq!(seen, 1_000 * element.len());
}

#[test]
fn what_has_no_end_is_not_kept_for_ever() {
    let endless = |begin: &str, list| {
        let mut slicer = Slicer::new(list, MAX_REST, Arc::default());
        let mut each = |_: &[u8], _: Slice| Ok::<_, Uncut>(());
        slicer
            .push(begin.as_bytes(), &mut each)
            .expect("a beginning");
        let chunk = vec![b' '; 1024 * 1024];
        (0..20).find_map(|_| slicer.push(&chunk, &mut each).err())
    };
    let long_rest = Some(Uncut::LongRest { limit: MAX_REST });
    assert_eq!(endless(r#"[{"a":""#, List::Whole), Some(Uncut::LongElement));
    assert_eq!(endless(r#"{"a":["#, List::Whole), long_rest);
    assert_eq!(endless(r#"{"a":["#, List::Named("racecards")), long_rest);
    assert_eq!(endless(r#"{"racecards":["#, List::Named("racecards")), None);
}

#[test]
fn only_the_documents_own_list_is_the_list() {
    let named = List::Named("cards");
    let list = |text: &str| cut(named, &[], text.as_bytes(), &[]).expect("JSON").0.len();
    assert_eq!(list(r#"{"cards" : [1, 2 ,3] , "b":[4]}"#), 3);
    assert_eq!(list(r#"{"b":{"cards":[1,2]},"cards":[]}"#), 0);
    assert_eq!(list(r#"{"b":"cards","c":[1],"cards":{"cards":[1]}}"#), 0);
    assert_eq!(list(r#"["cards",[1]]"#), 0);
}
