//! `run`, `once` and `healthcheck`: run the daemon, run a single cycle, and request a running daemon's
//! readiness.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::output::{err, out};
use super::{DEPENDENCY_DOWN, FAILED, duration, exit_code, feed_code, stop_on_signals};
use crate::app::{App, OnceOutcome, SHUTDOWN};
use crate::config::{InvalidSetting, Listen, Settings};
use crate::poller::CycleOutcome;
use oddsd_store::StoreError;

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Stop after this time, e.g. 30s.
    #[arg(long = "for", value_parser = duration)]
    pub run_for: Option<Duration>,
}

pub async fn run(settings: &Settings, args: &RunArgs) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signals(args.run_for, SHUTDOWN)?;
    let app = App::build(settings).await?;
    if let Some(address) = app.address() {
        tracing::info!(event = "http.listening", address = %address, "Read API at http://{address}/v1/races/by-stage");
    }
    app.run(stop).await?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, thiserror::Error)]
#[error(
    "{holder} holds the lease for another {seconds} s, so this run did nothing; stop that daemon, or leave the work to it"
)]
pub(super) struct HeldElsewhere {
    holder: String,
    seconds: u64,
}

/// What was begun may take so long after a stop signal. It is below [`SHUTDOWN`].
const ONCE_PATIENCE: Duration = Duration::from_secs(22);

pub async fn once(settings: &Settings) -> anyhow::Result<ExitCode> {
    let mut settings = settings.clone();
    // The process ends too soon for readers.
    settings.daemon.listen = Listen::Off;
    settings.schedule.cron = None;
    let stop = stop_on_signals(None, SHUTDOWN)?;
    let app = App::build(&settings).await?;
    let stopped = stop.clone();
    let outcome = tokio::select! {
        outcome = Box::pin(app.once(stop)) => outcome?,
        () = async {
            stopped.cancelled().await;
            tokio::time::sleep(ONCE_PATIENCE).await;
        } => bail!(StoreError::Down(
            "the database does not answer; what was committed is safe, and its removals wait in the outbox".into()
        )),
    };
    match outcome {
        OnceOutcome::HeldElsewhere { holder, expires_in } => {
            let seconds = expires_in.as_secs();
            bail!(HeldElsewhere { holder, seconds })
        }
        OnceOutcome::Done { cycle, pending } => {
            let code = match &cycle {
                CycleOutcome::Unchanged(_) | CycleOutcome::Committed(..) => 0,
                CycleOutcome::FetchFailed(why) => feed_code(why),
                CycleOutcome::StoreFailed(why) => exit_code(&anyhow::Error::new(why.clone())),
                CycleOutcome::Stopped => FAILED,
            };
            // The cycle is committed, so a pending removal is no failure.
            match pending {
                Ok(0) => {}
                Ok(rows) => tracing::warn!(
                    event = "once.removals_pending",
                    rows,
                    "{rows} removals wait in the outbox for the next run"
                ),
                Err(why) => tracing::warn!(
                    event = "once.removals_pending",
                    error = %why,
                    "Removals wait in the outbox for the next run"
                ),
            }
            Ok(ExitCode::from(code))
        }
    }
}

const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// Requests `/readyz` of the daemon on this machine, so that an image needs no shell and no curl.
pub async fn healthcheck(settings: &Settings) -> anyhow::Result<ExitCode> {
    let Listen::At(mut address) = settings.daemon.listen else {
        bail!(InvalidSetting(
            "the read API is off (LISTEN=off); use `oddsd status`, which reads the database".into()
        ));
    };
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let requesting = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let headers = format!("Host: {address}\r\nConnection: close");
        let request = format!("GET /readyz HTTP/1.1\r\n{headers}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let failure = match tokio::time::timeout(HEALTH_TIMEOUT, requesting).await {
        Ok(Ok(answer)) => {
            let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
            out!("{}", body.trim());
            let is_ready = answer.starts_with("HTTP/1.1 200");
            return Ok(ExitCode::from(if is_ready { 0 } else { DEPENDENCY_DOWN }));
        }
        Ok(Err(why)) => {
            format!("does not answer ({why}); check that `oddsd run` is up and LISTEN is the same")
        }
        Err(_) => {
            let seconds = HEALTH_TIMEOUT.as_secs();
            format!("did not answer within {seconds} s; see its log or `oddsd status`")
        }
    };
    err!("oddsd: {address} {failure}");
    Ok(ExitCode::from(DEPENDENCY_DOWN))
}
