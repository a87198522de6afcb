//! Fuzzes the parsers of setting values: the input is one `setting=value` a line, as in an environment
//! file, and is passed as command-line options.

#![no_main]

use clap::Parser;
use libfuzzer_sys::fuzz_target;
use oddsd::cli::Cli;

fuzz_target!(|text: &str| {
    let options = text.lines().map(|line| format!("--{line}"));
    let words = ["oddsd".to_owned()].into_iter().chain(options);
    let Ok(cli) = Cli::try_parse_from(words.chain(["once".to_owned()])) else {
        return;
    };
    let settings = cli.settings;
    let _ = settings.plan();
    let _ = settings.cron();
    let _ = settings.store();
    let _ = settings.cache();
    let _ = settings.poller();
});
