//! Fuzzes everything that makes a cache key, a tag or a tracked name of foreign bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oddsd_core::key::{Key, Namespace, Tag, TrackedKey};

fuzz_target!(|bytes: &[u8]| {
    if let Some(key) = Key::from_bytes(bytes) {
        assert!(key.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(key) = Key::from_user_input(text) {
        assert!(!key.as_str().contains(char::is_control));
        let _ = key.api_path();
        for tag in key.prefix_tags() {
            assert!(tag.is_prefix_tag());
        }
    }
    if let Some(tag) = Tag::from_text(text) {
        assert!(!tag.is_prefix_tag());
    }
    let _ = Tag::prefix_tag(text);
    let _ = TrackedKey::parse(text, &Namespace::default());
});
