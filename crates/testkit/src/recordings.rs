//! Finds the recordings of real feeds, which are private and not in the repository.
//! A test without its recordings reports itself as not run; `./test` lists it and does not count it as passed.

use std::io::Write;
use std::path::{Path, PathBuf};

/// A folder of recordings: below `ODDSD_TEST_DATA`, or beside the checkout.
pub fn folder(test: &str, name: &str) -> Option<PathBuf> {
    let data = std::env::var_os("ODDSD_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let folder = data.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    not_run(test, "no recordings; ODDSD_TEST_DATA names their folder");
    None
}

/// Reports a test as not run, on its output and in the list of `./test`.
pub fn not_run(test: &str, why: &str) {
    println!("NOT RUN: {test} ({why})");
    if let Some(list) = std::env::var_os("ODDSD_TEST_NOT_RUN") {
        let mut list = std::fs::File::options()
            .append(true)
            .open(list)
            .expect("the list of ./test");
        // One write for each line: tests run side by side.
        list.write_all(format!("{test} ({why})\n").as_bytes())
            .expect("the list takes a line");
    }
}
