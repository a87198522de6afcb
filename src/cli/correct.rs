//! `correct EVENT --status …`: a person's word about where an event stands, also back from the end. It is on
//! record before anybody acts on it, and the daemon that leads carries it out.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use chrono::Utc;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::open_existing;
use super::say::say;
use crate::config::Settings;
use crate::model::{Event, EventId, EventStatus, plain_text};

/// A daemon hears of it when it renews its lease, three times within one.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct CorrectArgs {
    /// The event, e.g. rac_11727.
    event: String,
    /// Where it stands.
    #[arg(long, value_parser = statuses())]
    status: EventStatus,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn statuses() -> impl TypedValueParser<Value = EventStatus> {
    let words = EventStatus::ALL.map(EventStatus::as_str);
    PossibleValuesParser::new(words)
        .map(|word| EventStatus::parse(&word).expect("a possible value is a status"))
}

pub async fn correct(settings: &Settings, args: &CorrectArgs) -> anyhow::Result<ExitCode> {
    let store = open_existing(settings).await?;
    store.check_schema().await?;
    let id = EventId::new(&args.event);
    let found = match args.event.chars().any(char::is_control) {
        true => None,
        false => store.event_prices(&id).await?.value,
    };
    let Some(found) = found else {
        bail!(
            "no event {:?} is stored; take an id from /v1/races/by-stage (race_id) or /v1/sidebar (event_id)",
            plain_text(&args.event, 80)
        );
    };
    let before = found.event.status;
    let (was, is) = (before.as_str(), args.status.as_str());
    let after = Event {
        status: args.status,
        ..found.event
    };
    if let Some(clock) = after.moved_by_clock(Utc::now()) {
        bail!(
            "{id} would be {} again at once: by its start the clock says so. Say what the clock leaves alone: \
             suspended, postponed, cancelled or abandoned, or completed",
            clock.as_str()
        );
    }
    if args.dry_run {
        answer(
            args.json,
            &id,
            before,
            args,
            "would change",
            &format!("would change {id} from {was} to {is}"),
        );
        return Ok(ExitCode::SUCCESS);
    }
    let Some(row) = store.request_correction(&id, args.status).await? else {
        bail!("{id} has just left the database: its retention is over");
    };
    let led = store.status().await?.lease_expires_at;
    let led = led.is_some_and(|until| until > Utc::now());
    let (asked, patience) = (Instant::now(), settings.lease());
    let mut waiting = store.is_correction_waiting(row).await?;
    while waiting && led && asked.elapsed() < patience {
        tokio::time::sleep(LOOK_EVERY).await;
        waiting = store.is_correction_waiting(row).await?;
    }
    store.close().await;
    let (state, text) = match (waiting, led) {
        (false, _) => ("done", format!("{id} was {was} and is {is}")),
        (true, true) => (
            "waiting",
            format!(
                "{id} is to be {is}: it is on record, and the daemon has not carried it out yet (see `oddsd status`)"
            ),
        ),
        (true, false) => (
            "waiting",
            format!(
                "{id} is to be {is}: it is on record for the next `oddsd run` or `oddsd once`; none runs now"
            ),
        ),
    };
    answer(args.json, &id, before, args, state, &text);
    Ok(ExitCode::SUCCESS)
}

fn answer(
    as_json: bool,
    id: &EventId,
    before: EventStatus,
    args: &CorrectArgs,
    state: &str,
    text: &str,
) {
    if as_json {
        let object = json!({
            "event_id": id, "before": before.as_str(), "after": args.status.as_str(), "dry_run": args.dry_run, "state": state,
        });
        say!("{object}");
    } else {
        say!("{text}");
    }
}
