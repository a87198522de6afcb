//! Fuzzes the text form of database snapshots (`pg_current_snapshot()`). What is printed must read back
//! as the same snapshot.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oddsd_core::model::DbSnapshot;

fuzz_target!(|text: &str| {
    let mut parts = text.splitn(2, '\n');
    let (first, second) = (
        parts.next().and_then(DbSnapshot::parse),
        parts.next().and_then(DbSnapshot::parse),
    );
    let Some(first) = first else { return };
    assert_eq!(DbSnapshot::parse(&first.to_string()).as_ref(), Some(&first));
    if let Some(second) = second {
        let joined = first.merge(&second);
        assert!(joined.includes(&first) && joined.includes(&second));
    }
});
