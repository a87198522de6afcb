//! Parse, start logging, hand over, exit code.

// Futures within futures: the compiler works their sizes out by recursion.
#![recursion_limit = "256"]

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before any thread exists: reading `.env` changes the environment.
    if let Err(why) = dotenvy::dotenv()
        && !why.not_found()
    {
        // Its own words quote the line, and the line may hold a password.
        eprintln!(
            "oddsd: .env cannot be read; each line is NAME=value, with quotes around a value that holds spaces"
        );
        return ExitCode::from(78);
    }
    // One provider for every TLS connection: two in one binary panic at the first of them.
    let provider = rustls::crypto::ring::default_provider();
    if provider.install_default().is_err() {
        eprintln!("oddsd: a TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(oddsd::cli::main()),
        Err(why) => {
            eprintln!("oddsd: no threads to work with: {why}");
            ExitCode::FAILURE
        }
    }
}
