//! `watch`: tables that other programs write are watched by triggers, so that a committed write removes
//! the cached answers that it made wrong. No program has to be changed.

use std::process::ExitCode;

use serde_json::json;

use super::open_existing;
use super::say::say;
use crate::config::Settings;
use crate::store::{Asked, Store, Watched};

#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Put triggers on a table. Again for the same table: the new watch takes the old one's place.
    Add(AddArgs),
    /// Which tables are watched, and what is wrong with it.
    List {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Take the triggers away.
    Remove {
        /// The table, by its name now or by the one that its changes have.
        table: String,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The table, as schema.name or name.
    table: String,
    /// What identifies a row to your rules, e.g. id,user_id. Without: only that the table changed, which
    /// costs its writers least.
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    /// Rows that one statement reports one by one; a larger one counts as a change of any row.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    bulk: u32,
    /// Notify nobody at the commit: the change is found within a second instead. For very many small
    /// transactions at once, which a notification makes take turns.
    #[arg(long)]
    quiet: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub async fn watch(settings: &Settings, args: &WatchArgs) -> anyhow::Result<ExitCode> {
    let store = open_existing(settings).await?;
    let done = does(&store, &args.what).await;
    store.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

async fn does(store: &Store, what: &What) -> anyhow::Result<()> {
    store.check_schema().await?;
    match what {
        What::Add(args) => add(store, args).await,
        What::List { json } => list(store, *json).await,
        What::Remove {
            table,
            dry_run,
            json,
        } => remove(store, table, *dry_run, *json).await,
    }
}

async fn add(store: &Store, args: &AddArgs) -> anyhow::Result<()> {
    let asked = Asked {
        table: args.table.clone(),
        columns: args.columns.clone(),
        bulk: args.bulk,
        quiet: args.quiet,
    };
    let done = store.watch(&asked, args.dry_run).await?;
    if args.json {
        let mut told = serde_json::to_value(&done)?;
        told["dry_run"] = json!(args.dry_run);
        say!("{told}");
        return Ok(());
    }
    let what = match done.columns.as_slice() {
        [] => "that it changed, without which rows".to_owned(),
        columns => format!(
            "{} of each changed row, up to {} a statement",
            columns.join(", "),
            args.bulk
        ),
    };
    let with = match done.partitions {
        0 => String::new(),
        n => format!(" with its {n} partitions"),
    };
    match args.dry_run {
        true => {
            say!("would watch {}{with}: {what}", done.table);
            for statement in &done.statements {
                say!("{statement};");
            }
        }
        false => say!("watching {}{with}: {what}", done.table),
    }
    if done.replaced {
        say!("it was watched before; this takes that watch's place");
    }
    not_covered(&done.not_covered);
    if !args.dry_run {
        say!(
            "rules say what such a change removes: row_changed with table = {:?}",
            done.table
        );
    }
    Ok(())
}

async fn list(store: &Store, as_json: bool) -> anyhow::Result<()> {
    let watched = store.watched().await?;
    if as_json {
        say!("{}", json!({ "watched": watched }));
        return Ok(());
    }
    if watched.is_empty() {
        say!("no table is watched; oddsd watch add TABLE --columns id");
    }
    for table in &watched {
        say!("{}", line(table));
        if table.told_as != table.table {
            say!(
                "  its changes still say {:?}: `oddsd watch add {}` goes by the new name",
                table.told_as,
                table.table
            );
        }
        if !table.missing.is_empty() {
            say!(
                "  {} is there no more, so its changes are reported without a row; add the watch again with columns \
                 that are there",
                table.missing.join(", ")
            );
        }
        if table.disabled {
            say!(
                "  its triggers are switched off, and nothing is reported; ALTER TABLE … ENABLE TRIGGER USER, or add \
                 the watch again"
            );
        }
        not_covered(&table.not_covered);
    }
    Ok(())
}

fn line(table: &Watched) -> String {
    let mut line = table.table.clone();
    match table.columns.as_slice() {
        [] => line += ": the table alone",
        columns => {
            line += &format!(
                ": {}, up to {} rows a statement",
                columns.join(", "),
                table.bulk
            );
        }
    }
    if table.partitions > 0 {
        line += &format!(", with {} partitions", table.partitions);
    }
    if table.quiet {
        line += ", quiet";
    }
    line
}

fn not_covered(partitions: &[String]) {
    if !partitions.is_empty() {
        say!(
            "  not seen: what is written directly to {} (through the table itself it is); add the watch again if no \
             trigger is there yet",
            partitions.join(", ")
        );
    }
}

async fn remove(store: &Store, table: &str, dry_run: bool, as_json: bool) -> anyhow::Result<()> {
    let statements = store.unwatch(table, dry_run).await?;
    if as_json {
        say!(
            "{}",
            json!({ "table": table, "dry_run": dry_run, "statements": statements })
        );
        return Ok(());
    }
    match dry_run {
        true => {
            say!("would no longer watch {table}");
            for statement in &statements {
                say!("{statement};");
            }
        }
        false => say!("no longer watching {table}"),
    }
    Ok(())
}
