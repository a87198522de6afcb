//! The `oddsd` program: it prepares the process and runs the command line of the library.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Calls that block a thread of the runtime, such as looking up a host's name, hold up the exit for this long at most.
const LAST_CALLS: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    // Before any thread starts: reading `.env` changes the environment.
    let warnings = match oddsd::dotenv::load() {
        Ok(warnings) => warnings,
        Err(errors) => {
            for why in errors {
                print_error(why);
            }
            return ExitCode::from(78);
        }
    };
    // One provider for all TLS connections: with two in one binary the first connection panics.
    let provider = rustls::crypto::ring::default_provider();
    if provider.install_default().is_err() {
        print_error("a TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(oddsd::cli::main(std::env::args_os().collect(), warnings));
            runtime.shutdown_timeout(LAST_CALLS);
            code
        }
        Err(why) => {
            print_error(format_args!("the async runtime cannot start: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// `eprintln!` panics if nothing reads stderr any more.
fn print_error(why: impl Display) {
    let _ = writeln!(std::io::stderr(), "oddsd: {why}");
}
