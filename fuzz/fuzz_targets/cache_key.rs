//! Fuzzes everything that makes a cache key, a tag or a tracked name of foreign bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oddsd_core::key::{Heard, Key, Tag};

fuzz_target!(|bytes: &[u8]| {
    if let Some(key) = Key::from_bytes(bytes) {
        assert!(key.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(key) = Key::from_person(text) {
        assert!(!key.as_str().contains(char::is_control));
        let _ = key.path();
        for tag in key.families() {
            assert!(tag.is_family());
        }
    }
    if let Some(tag) = Tag::new(text) {
        assert!(!tag.is_family());
    }
    let _ = Tag::family(text);
    let _ = Heard::name(text);
});
