//! Fuzzes the parser of rules files (TOML and JSON). Valid rules also run their own tests.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oddsd_core::rules::Rules;

fuzz_target!(|text: &str| {
    match Rules::parse("rules.toml", text) {
        Ok(rules) => drop(rules.run_tests()),
        // Rendering the error quotes the input.
        Err(error) => drop(error.to_string()),
    }
});
