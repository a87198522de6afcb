//! `correct EVENT --status …`: an operator overrides the status of an event, also of a finished one. The
//! request is stored first; the leading daemon carries it out.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use chrono::Utc;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::output::answer;
use super::{is_led, open_existing, wait_for_daemon};
use crate::config::Settings;
use oddsd_core::model::{Event, EventId, EventStatus, sanitize_text};

#[derive(Debug, clap::Args)]
pub struct CorrectArgs {
    /// The event, e.g. rac_11727.
    event: String,
    /// Its new status.
    #[arg(long, value_parser = statuses())]
    status: EventStatus,
    /// Print the change without making it.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn statuses() -> impl TypedValueParser<Value = EventStatus> {
    PossibleValuesParser::new(EventStatus::ALL.map(EventStatus::as_str))
        .map(|text| EventStatus::parse(&text).expect("a possible value is a status"))
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
            sanitize_text(&args.event, 80)
        );
    };
    let (before, after) = (found.event.status.as_str(), args.status.as_str());
    let corrected = Event {
        status: args.status,
        ..found.event
    };
    if let Some(clock) = corrected.due_clock_transition(Utc::now()) {
        bail!(
            "by its start {id} would become {} again at once. Use a status that the clock does not change: \
             suspended, postponed, cancelled, abandoned or completed",
            clock.as_str()
        );
    }
    let print = |state: &str, text: &str| {
        let object = json!({
            "event_id": id, "before": before, "after": after, "dry_run": args.dry_run, "state": state,
        });
        answer(args.json, &object, text);
        Ok(ExitCode::SUCCESS)
    };
    if args.dry_run {
        let text = format!("would change {id} from {before} to {after}");
        return print("would change", &text);
    }
    let Some(row) = store.request_correction(&id, args.status).await? else {
        bail!("{id} was just deleted: its retention has ended");
    };
    let led = is_led(&store).await?;
    let patience = match led {
        // The daemon looks for requests three times within a lease.
        true => settings.lease(),
        false => Duration::ZERO,
    };
    let waits = wait_for_daemon(patience, async || store.is_correction_waiting(row).await).await?;
    store.close().await;
    if !waits {
        return print("done", &format!("{id} was {before} and is {after}"));
    }
    let until = match led {
        true => ", but the daemon has not made it yet (see `oddsd status`)",
        false => " for the next `oddsd run` or `oddsd once`; none runs now",
    };
    let text = format!("the change of {id} to {after} is stored{until}");
    print("waiting", &text)
}
