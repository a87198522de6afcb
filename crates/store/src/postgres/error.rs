//! Maps errors of the driver and the server to `StoreError`, with a hint for the operator.
//! All modules of the Postgres backend call it.

use crate::StoreError;

/// Division by zero: the commit divides by the number of leases that this daemon holds.
pub const FENCED: &str = "22012";

/// The text never holds the URL.
pub fn map_error(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(refused) => {
            let code = refused.code().unwrap_or_default();
            let message = refused.message();
            match &*code {
                FENCED => StoreError::Fenced,
                "28P01" | "28000" => StoreError::Misconfigured(format!(
                    "the database refused the login ({message}); check user and password in DATABASE_URL"
                )),
                "3D000" => StoreError::Misconfigured(format!(
                    "{message}; create it, or correct the name at the end of DATABASE_URL"
                )),
                "42501" => StoreError::Misconfigured(format!(
                    "{message}; the user of DATABASE_URL needs CREATE on the database (for schema oddsd) and on schema public \
                     (for the views)"
                )),
                "3F000" | "42P01" | "42703" => StoreError::Schema(format!(
                    "{message}; run `oddsd migrate` to bring the tables to this version"
                )),
                "22P05" => StoreError::Misconfigured(format!(
                    "{message}; the names of runners need every letter: create the database with ENCODING 'UTF8' (CREATE DATABASE \
                     odds TEMPLATE template0 ENCODING 'UTF8') and name it in DATABASE_URL"
                )),
                // A standby, or a primary that has just become one.
                "25006" => StoreError::Down(format!(
                    "{message}; it answers read-only, waiting for a primary"
                )),
                "57014" => StoreError::Failed(format!(
                    "{message}; find what holds it up, or raise DATABASE_STATEMENT_TIMEOUT_SECONDS"
                )),
                // Shutting down, starting up, too many connections, out of resources.
                code if code.starts_with("57P")
                    || code.starts_with("53")
                    || code.starts_with("08") =>
                {
                    StoreError::Down(message.to_owned())
                }
                _ => StoreError::Failed(format!("{message} ({code})")),
            }
        }
        // rustls reports a certificate that it does not trust as an I/O error.
        sqlx::Error::Io(io) if io.to_string().contains("certificate") => untrusted(io),
        sqlx::Error::Io(io) => StoreError::Down(io.to_string()),
        sqlx::Error::Tls(tls) => untrusted(tls),
        sqlx::Error::PoolTimedOut => StoreError::Down("no connection became free in time".into()),
        sqlx::Error::PoolClosed => {
            StoreError::Down("the connections were closed; oddsd is shutting down".into())
        }
        sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => {
            StoreError::Down(error.to_string())
        }
        _ => StoreError::Failed(error.to_string()),
    }
}

fn untrusted(why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Misconfigured(format!(
        "no trusted TLS connection to the database ({why}); check the host name, or give the certificate of the \
         database's authority (Supabase: Project Settings, Database, SSL) with sslrootcert=/path/to/ca.crt in \
         DATABASE_URL or in PGSSLROOTCERT"
    ))
}
