//! `run`, `once` and `healthcheck`: the daemon in its three lives.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::say::{remark, say};
use super::{
    DEPENDENCY_DOWN, FAILED, HELD_ELSEWHERE, code_of, duration, feed_code, stop_on_signals,
};
use crate::app::{App, Once};
use crate::config::{BadSetting, Listen, Settings};
use crate::poller::Cycle;

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// End by itself after this long, e.g. 30s.
    #[arg(long = "for", value_parser = duration)]
    pub run_for: Option<Duration>,
}

pub async fn run(settings: &Settings, args: &RunArgs) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signals(args.run_for)?;
    let app = App::build(settings).await?;
    if let Some(address) = app.address() {
        tracing::info!(event = "http.listening", address = %address, "Read API at http://{address}/v1/races/by-stage");
    }
    app.run(stop).await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn once(settings: &Settings) -> anyhow::Result<ExitCode> {
    let mut settings = settings.clone();
    // Nobody reads from a program that is about to end.
    settings.daemon.listen = Listen::Off;
    settings.schedule.cron = None;
    let stop = stop_on_signals(None)?;
    match App::build(&settings).await?.once(stop).await? {
        Once::HeldElsewhere {
            holder,
            for_another,
        } => {
            remark!(
                "oddsd: {holder} holds the lease for another {} s, so this run did nothing; stop that daemon, or let it do the work",
                for_another.as_secs()
            );
            Ok(ExitCode::from(HELD_ELSEWHERE))
        }
        Once::Done { cycle, pending } => {
            let code = match &cycle {
                Cycle::Unchanged(_) | Cycle::Committed(..) => 0,
                Cycle::FetchFailed(why) => feed_code(why),
                Cycle::StoreFailed(why) => code_of(&anyhow::Error::new(why.clone())),
                Cycle::Stopped => FAILED,
            };
            // The cycle is committed; a late removal does not make it a failure.
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

/// One plain request to our own `/readyz`: no client library, no shell, no curl in the image.
pub async fn healthcheck(settings: &Settings) -> anyhow::Result<ExitCode> {
    let Listen::At(mut address) = settings.daemon.listen else {
        bail!(BadSetting(
            "nothing listens (LISTEN=off); `oddsd status` asks through the database".into()
        ));
    };
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = match tokio::time::timeout(HEALTH_TIMEOUT, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(why)) => {
            remark!(
                "oddsd: {address} does not answer ({why}); is `oddsd run` up, and is LISTEN the same?"
            );
            return Ok(ExitCode::from(DEPENDENCY_DOWN));
        }
        Err(_) => {
            let waited = HEALTH_TIMEOUT.as_secs();
            remark!(
                "oddsd: {address} did not answer within {waited} s; its log says why, or `oddsd status`"
            );
            return Ok(ExitCode::from(DEPENDENCY_DOWN));
        }
    };
    let ready = answer.starts_with("HTTP/1.1 200");
    say!(
        "{}",
        answer.rsplit("\r\n\r\n").next().unwrap_or_default().trim()
    );
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DEPENDENCY_DOWN)
    })
}
