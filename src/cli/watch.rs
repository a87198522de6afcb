//! `watch`: puts triggers on tables that other programs write, so that a committed write removes the cached
//! answers that it made wrong. The other programs stay unchanged.

use std::process::ExitCode;

use serde_json::json;

use super::open_existing;
use super::output::out;
use crate::config::Settings;
use oddsd_store::{Store, TableWatch, WatchRequest};

#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    #[command(subcommand)]
    action: WatchAction,
}

#[derive(Debug, clap::Subcommand)]
enum WatchAction {
    /// Put triggers on a table. A second watch of the same table replaces the first.
    Add(AddArgs),
    /// List the watched tables and their problems.
    List {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Remove the triggers from a table.
    Remove {
        /// The table, by its current name or by the name in its changes.
        table: String,
        /// Print the statements without executing them.
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
    /// Columns that identify a row to your rules, e.g. id,user_id. Without it a change names the table only,
    /// which costs its writers least.
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    /// Maximum number of rows that one statement reports singly. A larger statement is a change of any row.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    bulk: u32,
    /// Send no notification at the commit; the change is found within a second instead. Use it for very many
    /// concurrent small transactions, which a notification would serialise.
    #[arg(long)]
    quiet: bool,
    /// Print the statements without executing them.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub async fn watch(settings: &Settings, args: &WatchArgs) -> anyhow::Result<ExitCode> {
    let store = open_existing(settings).await?;
    let done = run(&store, &args.action).await;
    store.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

async fn run(store: &Store, action: &WatchAction) -> anyhow::Result<()> {
    store.check_schema().await?;
    match action {
        WatchAction::Add(args) => add(store, args).await,
        WatchAction::List { json } => list(store, *json).await,
        WatchAction::Remove {
            table,
            dry_run,
            json,
        } => remove(store, table, *dry_run, *json).await,
    }
}

async fn add(store: &Store, args: &AddArgs) -> anyhow::Result<()> {
    let request = WatchRequest {
        table: args.table.clone(),
        columns: args.columns.clone(),
        bulk: args.bulk,
        quiet: args.quiet,
    };
    let done = store.watch(&request, args.dry_run).await?;
    if args.json {
        let mut object = serde_json::to_value(&done)?;
        object["dry_run"] = json!(args.dry_run);
        out!("{object}");
        return Ok(());
    }
    let (columns, bulk) = (done.columns.join(", "), args.bulk);
    let reported = match columns.is_empty() {
        true => "that it changed, without the rows".to_owned(),
        false => format!("{columns} of each changed row, up to {bulk} a statement"),
    };
    let with = match done.partitions {
        0 => String::new(),
        n => format!(" with its {n} partitions"),
    };
    let table = &done.table;
    match args.dry_run {
        true => print_dry_run(
            &format!("watch {table}{with}: {reported}"),
            &done.statements,
        ),
        false => out!("watching {table}{with}: {reported}"),
    }
    if done.replaced {
        out!("the table was watched before; this watch replaces that one");
    }
    if done.quiet_for_two_phase {
        out!(
            "this server allows two-phase commits (max_prepared_transactions), which a notification would make fail: the watch is \
             quiet, and its changes are found within a second"
        );
    }
    print_not_covered(&done.not_covered);
    if !done.reports_ddl {
        print_no_ddl();
    }
    if !args.dry_run {
        out!("a rule for its changes has: on = [\"row_changed\"], table = {table:?}");
    }
    Ok(())
}

async fn list(store: &Store, as_json: bool) -> anyhow::Result<()> {
    let watched = store.list_watches().await?;
    if as_json {
        out!("{}", json!({ "watched": watched }));
        return Ok(());
    }
    if watched.is_empty() {
        out!("no table is watched; start with `oddsd watch add TABLE --columns id`");
    }
    for table in &watched {
        out!("{}", line(table));
        if table.told_as != table.table {
            let (old, new) = (&table.told_as, &table.table);
            out!(
                "  its changes still have the name {old:?}; `oddsd watch add {new}` uses the new one"
            );
        }
        if !table.missing.is_empty() {
            out!(
                "  column {} no longer exists, so changes are reported without a row; add the watch again with \
                 existing columns",
                table.missing.join(", ")
            );
        }
        if table.disabled {
            out!(
                "  its triggers are disabled, so nothing is reported; run ALTER TABLE … ENABLE TRIGGER USER, or add \
                 the watch again"
            );
        }
        print_not_covered(&table.not_covered);
        if !table.reports_ddl && table.partitions + table.not_covered.len() > 0 {
            print_no_ddl();
        }
    }
    Ok(())
}

fn line(table: &TableWatch) -> String {
    let mut line = table.table.clone();
    let (columns, bulk) = (table.columns.join(", "), table.bulk);
    match columns.is_empty() {
        true => line += ": the table alone",
        false => line += &format!(": {columns}, up to {bulk} rows a statement"),
    }
    if table.partitions > 0 {
        line += &format!(", with {} partitions", table.partitions);
    }
    if table.quiet {
        line += ", quiet";
    }
    line
}

fn print_not_covered(partitions: &[String]) {
    if !partitions.is_empty() {
        out!(
            "  not covered: writes directly to {} (writes to the table itself are); add the watch again to put a \
             trigger on them",
            partitions.join(", ")
        );
    }
}

fn print_no_ddl() {
    out!(
        "  not reported: partitions that are attached, detached or dropped, and other changes by ALTER TABLE; a watch that a \
         superuser adds reports them"
    );
}

async fn remove(store: &Store, table: &str, dry_run: bool, as_json: bool) -> anyhow::Result<()> {
    let statements = store.unwatch(table, dry_run).await?;
    if as_json {
        let object = json!({ "table": table, "dry_run": dry_run, "statements": statements });
        out!("{object}");
        return Ok(());
    }
    match dry_run {
        true => print_dry_run(&format!("no longer watch {table}"), &statements),
        false => out!("no longer watching {table}"),
    }
    Ok(())
}

fn print_dry_run(action: &str, statements: &[String]) {
    out!("would {action}");
    for statement in statements {
        out!("{statement};");
    }
}
