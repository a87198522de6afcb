//! The rules in force and the watcher of the file that they come from. The relay, the auditor and the API read the
//! rules through a [`RulesHandle`]; `app` runs the [`RulesWatcher`].
//!
//! A file that changes and is valid is in force within a second. An invalid one is rejected: the last valid rules
//! stay in force, and the reason is logged and shown by the API. The database keeps their text, so that a start finds
//! them too.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use oddsd_core::rules::{Diagnostic, Rules, RulesError};
use oddsd_store::{KeptSetting, Store};

/// The whole text is read each time: a file swapped by rename has another inode and other times, and a rules file
/// has only a few kilobytes.
const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// A file that is being written shows its beginning first, which may be valid. Only a text that stays unchanged
/// for this long counts.
const SETTLED: Duration = Duration::from_millis(50);
/// A larger file is not a rules file.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Gives the rules in force. Cheap to clone.
#[derive(Clone)]
pub struct RulesHandle(watch::Receiver<RulesInForce>);

struct RulesInForce {
    rules: Arc<Rules>,
    state: RulesState,
}

/// The rules in force, as the API and `oddsd check` show them.
#[derive(Clone, Debug, Serialize)]
pub struct RulesState {
    pub version: String,
    pub rules: usize,
    /// `None`: the built-in ones alone.
    pub file: Option<String>,
    pub since: DateTime<Utc>,
    /// Why the present content of the file is not in force.
    pub error: Option<String>,
}

/// Polls the rules file and puts valid changes in force.
pub struct RulesWatcher {
    path: PathBuf,
    in_force: watch::Sender<RulesInForce>,
    /// The file as the last poll found it.
    last: FileState,
    store: Option<Store>,
    /// A valid text that the database does not keep yet.
    unkept: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum FileState {
    Missing,
    Text(String),
    /// A directory, a text that is not UTF-8, a file without read permission, …
    Unreadable(String),
}

impl RulesHandle {
    /// Rules that never change.
    pub fn constant(rules: Arc<Rules>) -> Self {
        // The receiver keeps the last value after its sender is gone.
        Self(watch::channel(RulesInForce::new(rules, None)).1)
    }

    pub fn builtin() -> Self {
        Self::constant(Arc::clone(Rules::builtin()))
    }

    /// Where the file is missing or invalid, the `kept` text is in force: that of its last valid content. Without one, an
    /// existing file has to be valid, and the built-in rules are in force until a missing one appears.
    pub fn open(path: &Path, kept: Option<&str>) -> Result<(Self, RulesWatcher), RulesError> {
        let last = FileState::of(read(path));
        let name = path.display().to_string();
        let kept = kept.and_then(|text| Rules::parse(&name, text).ok());
        let (rules, error) = match &last {
            FileState::Text(text) => match (Rules::parse(&name, text), kept) {
                (Ok(rules), _) => (Some(rules), None),
                (Err(why), Some(kept)) => (Some(kept), Some(why.to_string())),
                (Err(why), None) => return Err(why),
            },
            FileState::Missing => {
                let error = kept
                    .as_ref()
                    .map(|_| format!("{name} is not there any more"));
                (kept, error)
            }
            FileState::Unreadable(why) => match kept {
                Some(kept) => (Some(kept), Some(unreadable(name.clone(), why).to_string())),
                None => return Err(unreadable(name, why)),
            },
        };
        let file = rules.is_some().then(|| name.clone());
        let rules = rules.map_or_else(|| Arc::clone(Rules::builtin()), Arc::new);
        let mut in_force = RulesInForce::new(rules, file);
        if let Some(error) = error {
            let version = &in_force.state.version;
            tracing::warn!(
                event = "rules.kept",
                version,
                error,
                "The rules file cannot be used; its last valid text, which the database keeps, is in force. Repair {name}: it is \
                 taken up within a second"
            );
            in_force.state.error = Some(error);
        }
        let unkept = match (&last, &in_force.state.error) {
            (FileState::Text(text), None) => Some(text.clone()),
            _ => None,
        };
        let (in_force, receiver) = watch::channel(in_force);
        let watcher = RulesWatcher {
            path: path.to_owned(),
            in_force,
            last,
            store: None,
            unkept,
        };
        Ok((Self(receiver), watcher))
    }

    pub fn current(&self) -> Arc<Rules> {
        Arc::clone(&self.0.borrow().rules)
    }

    pub fn state(&self) -> RulesState {
        self.0.borrow().state.clone()
    }
}

impl RulesInForce {
    fn new(rules: Arc<Rules>, file: Option<String>) -> Self {
        let state = RulesState {
            version: rules.version().to_string(),
            rules: rules.iter().len(),
            file,
            since: Utc::now(),
            error: None,
        };
        Self { rules, state }
    }
}

/// The result of one poll of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    Unchanged,
    Loaded {
        version: String,
    },
    /// The last valid rules stay in force.
    Rejected {
        error: String,
    },
}

impl RulesWatcher {
    /// Keeps the text of the rules in force in the database.
    pub fn keeping_text_in(mut self, store: Store) -> Self {
        self.store = Some(store);
        self
    }

    /// Stores a valid text that the database does not keep yet. After a failure the next poll tries it again.
    pub async fn keep_text(&mut self) {
        let (Some(store), Some(text)) = (&self.store, &self.unkept) else {
            return;
        };
        match store.keep_setting(KeptSetting::Rules, text).await {
            Ok(()) => self.unkept = None,
            Err(why) => {
                tracing::debug!(event = "rules.keep_failed", error = %why, "the text of the rules is not kept yet");
            }
        }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let mut polls = tokio::time::interval(POLL_INTERVAL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = polls.tick() => {}
                () = stop.cancelled() => return,
            }
            self.poll().await;
            self.keep_text().await;
        }
    }

    pub async fn poll(&mut self) -> ReloadOutcome {
        let name = self.path.display().to_string();
        let found = self.read_file().await;
        if self.last == found {
            return ReloadOutcome::Unchanged;
        }
        tokio::time::sleep(SETTLED).await;
        if self.read_file().await != found {
            // It is still being written; the next poll reads it again.
            return ReloadOutcome::Unchanged;
        }
        self.last = found.clone();
        let rules = match &found {
            FileState::Text(text) => Rules::parse(&name, text),
            // The built-in rules are in force already.
            FileState::Missing if self.in_force.borrow().state.file.is_none() => {
                return self.keep_rules();
            }
            FileState::Missing => return self.reject(format!("{name} is not there any more")),
            FileState::Unreadable(why) => Err(unreadable(name.clone(), why)),
        };
        let rules = match rules {
            Ok(rules) => Arc::new(rules),
            Err(why) => return self.reject(why.to_string()),
        };
        if let FileState::Text(text) = found {
            self.unkept = Some(text);
        }
        let version = rules.version().to_string();
        if self.in_force.borrow().state.version == version {
            return self.keep_rules();
        }
        tracing::info!(
            event = "rules.loaded",
            version,
            rules = rules.iter().len(),
            "New rules are in force: {} of {name}",
            rules.iter().len()
        );
        let in_force = RulesInForce::new(rules, Some(name));
        self.in_force.send_replace(in_force);
        ReloadOutcome::Loaded { version }
    }

    async fn read_file(&self) -> FileState {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        FileState::of(read.unwrap_or_else(|why| Err(io::Error::other(why))))
    }

    /// The file is again as the rules in force: an earlier error is over.
    fn keep_rules(&self) -> ReloadOutcome {
        self.in_force.send_modify(|now| now.state.error = None);
        ReloadOutcome::Unchanged
    }

    fn reject(&self, error: String) -> ReloadOutcome {
        tracing::error!(
            event = "rules.refused",
            version = self.in_force.borrow().state.version,
            error,
            "The rules file is not valid; the last good rules stay in force. `oddsd rules check {}` says the same",
            self.path.display()
        );
        let shown = Some(error.clone());
        self.in_force.send_modify(|now| now.state.error = shown);
        ReloadOutcome::Rejected { error }
    }
}

impl FileState {
    fn of(read: io::Result<String>) -> Self {
        match read {
            Ok(text) => Self::Text(text),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Self::Missing,
            Err(why) => Self::Unreadable(why.to_string()),
        }
    }
}

fn unreadable(file: String, why: &str) -> RulesError {
    let message = format!("it cannot be read: {why}");
    let (line, column) = (1, 1);
    let diagnostics = vec![Diagnostic {
        line,
        column,
        message,
    }];
    RulesError { file, diagnostics }
}

fn read(path: &Path) -> io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > LARGEST {
        let why = format!("{size} bytes are too many for a rules file");
        return Err(io::Error::other(why));
    }
    std::fs::read_to_string(path)
}
