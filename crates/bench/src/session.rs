//! One run of a benchmark command: its server, the description of its machine, a new database for each section, and
//! the report. The commands `write`, `freshness` and `invalidation` use it.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::{Duration, Instant};

use anyhow::bail;
use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::database::{Database, describe_error, server_settings};
use crate::machine;
use crate::output::{err, out};
use crate::report::{Measure, Report};
use oddsd::app::SHUTDOWN;
use oddsd::cli::stop_on_signals;
use oddsd_store::{StoreSettings, Tls};
use oddsd_testkit::postgres::PostgresServer;

/// The daemon's defaults.
const MAX_CONNECTIONS: u32 = 10;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of every benchmark command.
#[derive(Debug, clap::Args)]
pub struct CommonArgs {
    /// A Postgres server to measure on, postgres://user@host:5432/name. Without it a private one is started.
    #[arg(long, value_name = "URL")]
    database_url: Option<SecretString>,
    /// Tiny sizes: checks every result in seconds; its times mean nothing.
    #[arg(long)]
    pub quick: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The choice of measures by their names.
#[derive(Debug, clap::Args)]
pub struct OnlyArgs {
    /// Only measures whose name contains one of these.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
}

/// The command line is wrong. The text is for the user; the exit code is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadArgument(String);

impl OnlyArgs {
    pub fn wants(&self, measure: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| measure.contains(only.as_str()))
    }

    /// The sections that take a wanted measure; it is an error if there are none.
    pub fn select<S: Copy>(
        &self,
        sections: &[S],
        measures: fn(S) -> &'static [&'static str],
    ) -> anyhow::Result<Vec<S>> {
        let is_wanted = |section: &&S| measures(**section).iter().any(|name| self.wants(name));
        let selected: Vec<S> = sections.iter().filter(is_wanted).copied().collect();
        if selected.is_empty() {
            let names: Vec<&str> = sections
                .iter()
                .flat_map(|section| measures(*section))
                .copied()
                .collect();
            bail!(BadArgument(format!(
                "--only {} names no measure; there are {}",
                self.only.join(" "),
                names.join(", ")
            )));
        }
        Ok(selected)
    }
}

pub struct Session {
    server: StoreSettings,
    /// The private server; it runs as long as the session.
    _private: Option<PostgresServer>,
    machine: Value,
    stop: CancellationToken,
    json: bool,
}

impl Session {
    /// Connects to the server, or starts a private one. `sizes` goes into the report.
    pub async fn start(args: &CommonArgs, command: &str, sizes: Value) -> anyhow::Result<Self> {
        let stop = stop_on_signals(None, SHUTDOWN)?;
        let (server, private) = choose_server(args)?;
        let mut machine = machine::describe();
        machine["postgres"] = server_settings(&server).await?;
        machine["private_server"] = json!(private.is_some());
        machine["sizes"] = sizes;
        if cfg!(debug_assertions) && !args.quick {
            err!(
                "this is a debug build: its figures mean nothing; cargo run --release -p oddsd-bench -- {command}"
            );
        }
        Ok(Self {
            server,
            _private: private,
            machine,
            stop,
            json: args.json,
        })
    }

    /// Runs one section in a new database, which is dropped even if the section fails, panics or is stopped.
    pub async fn run_section(
        &self,
        title: &str,
        measure: impl AsyncFnOnce(&Database) -> anyhow::Result<Vec<Measure>>,
    ) -> anyhow::Result<Vec<Measure>> {
        let began = Instant::now();
        err!("{title}");
        let db = Database::create(&self.server).await?;
        let outcome = tokio::select! {
            outcome = Box::pin(AssertUnwindSafe(measure(&db)).catch_unwind()) => outcome,
            () = self.stop.cancelled() => Ok(Err(anyhow::anyhow!("stopped before the end; nothing is left behind"))),
        };
        db.drop().await?;
        let measures = outcome.unwrap_or_else(|panic| resume_unwind(panic));
        let measures = measures.map_err(describe_error)?;
        err!("  {:.1} s", began.elapsed().as_secs_f64());
        Ok(measures)
    }

    /// Runs the sections that [`OnlyArgs::select`] returned, one after the other; returns their wanted measures.
    pub async fn run_sections<S: Copy>(
        &self,
        sections: &[S],
        only: &OnlyArgs,
        names: fn(S) -> &'static [&'static str],
        measure: impl AsyncFn(S, &Database) -> anyhow::Result<Vec<Measure>>,
    ) -> anyhow::Result<Vec<Measure>> {
        let mut measures = Vec::new();
        for (n, &section) in sections.iter().enumerate() {
            let title = format!(
                "{}/{}: {}",
                n + 1,
                sections.len(),
                names(section).join(", ")
            );
            let measure = async |db: &Database| measure(section, db).await;
            measures.extend(self.run_section(&title, measure).await?);
        }
        measures.retain(|measure| only.wants(measure.name));
        Ok(measures)
    }

    /// Prints the report.
    pub fn finish(self, runs: usize, measures: Vec<Measure>) -> anyhow::Result<()> {
        let report = Report::new(self.machine, runs, measures);
        match self.json {
            true => out!("{}", serde_json::to_string(&report)?),
            false => out!(
                "{}\n\n{}",
                serde_json::to_string_pretty(&report.machine)?,
                report.table()
            ),
        }
        Ok(())
    }
}

/// The server to measure on, and the private one if no URL is given.
fn choose_server(args: &CommonArgs) -> anyhow::Result<(StoreSettings, Option<PostgresServer>)> {
    let settings = |url: SecretString| StoreSettings {
        url,
        tls: Tls::VerifyFull,
        max_connections: MAX_CONNECTIONS,
        statement_timeout: STATEMENT_TIMEOUT,
    };
    if let Some(url) = &args.database_url {
        let is_postgres = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.expose_secret().starts_with(scheme));
        if !is_postgres {
            bail!(BadArgument(
                "--database-url names a Postgres server, postgres://user@host:5432/name".into()
            ));
        }
        return Ok((settings(url.clone()), None));
    }
    err!("starting a private PostgreSQL (--database-url URL measures yours)");
    let private = PostgresServer::start()?;
    let url = SecretString::from(private.url.clone());
    Ok((settings(url), Some(private)))
}
