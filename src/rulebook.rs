//! The rules in force, and the file that they come from: looked at several times a second, and taken over when
//! its text has changed and is valid. Until then the last good ones stay, and everybody is told why.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::rules::{BadRules, Fault, Rules};

/// A file swapped by rename has another name's times and number: its text is what counts, and that is
/// a few kilobytes.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// A text that is being written shows its beginning first, and that may be valid: only one that stays
/// as it is for this long counts.
const SETTLED: Duration = Duration::from_millis(50);
/// A file larger than this is no rules file.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Who asks gets the rules of this moment. Cheap to clone.
#[derive(Clone)]
pub struct Rulebook {
    rules: watch::Receiver<Arc<Rules>>,
    state: Arc<Mutex<RulesState>>,
}

/// What is known of the rules, for people.
#[derive(Clone, Debug, Serialize)]
pub struct RulesState {
    pub version: String,
    pub rules: usize,
    /// `None`: the built-in ones alone.
    pub file: Option<String>,
    pub since: DateTime<Utc>,
    /// Why the file as it is now is not in force.
    pub error: Option<String>,
}

/// Keeps a rulebook up to date.
pub struct RulesKeeper {
    path: PathBuf,
    told: watch::Sender<Arc<Rules>>,
    state: Arc<Mutex<RulesState>>,
    /// What was there when it was looked at last.
    last: Seen,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Missing,
    Text(String),
    /// There is something, and it is no text.
    Unreadable(String),
}

impl Rulebook {
    /// Rules that stay as they are.
    pub fn fixed(rules: Arc<Rules>) -> Self {
        let (told, rules) = watch::channel(rules);
        let state = state(&told.borrow(), None);
        Self {
            rules,
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub fn builtin() -> Self {
        Self::fixed(Arc::clone(Rules::builtin()))
    }

    /// A file that is there has to be valid. One that is not is looked for until it appears; until then
    /// the built-in rules are in force.
    pub fn open(path: &Path) -> Result<(Self, RulesKeeper), BadRules> {
        let last = Seen::of(read(path));
        let name = path.display().to_string();
        let rules = match &last {
            Seen::Text(text) => Arc::new(Rules::parse(&name, text)?),
            Seen::Missing => Arc::clone(Rules::builtin()),
            Seen::Unreadable(why) => return Err(unreadable(name, why)),
        };
        let (told, rules) = watch::channel(rules);
        let state = state(&told.borrow(), (last != Seen::Missing).then_some(name));
        let state = Arc::new(Mutex::new(state));
        let keeper = RulesKeeper {
            path: path.to_owned(),
            told,
            state: Arc::clone(&state),
            last,
        };
        Ok((Self { rules, state }, keeper))
    }

    pub fn now(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.borrow())
    }

    pub fn state(&self) -> RulesState {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What one look at the file came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RulesLook {
    Same,
    Taken {
        version: String,
    },
    /// The last good ones stay in force.
    Refused {
        error: String,
    },
}

impl RulesKeeper {
    pub async fn run(mut self, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = stop.cancelled() => return,
            }
            self.look().await;
        }
    }

    pub async fn look(&mut self) -> RulesLook {
        let name = self.path.display().to_string();
        let seen = self.see().await;
        if self.last == seen {
            return RulesLook::Same;
        }
        tokio::time::sleep(SETTLED).await;
        if self.see().await != seen {
            // The next look sees what becomes of it.
            return RulesLook::Same;
        }
        self.last = seen.clone();
        let rules = match &seen {
            Seen::Text(text) => Rules::parse(&name, text),
            // What is in force is what is in force without a file.
            Seen::Missing if self.state().file.is_none() => return self.same(),
            Seen::Missing => return self.refuse(format!("{name} is not there any more")),
            Seen::Unreadable(why) => Err(unreadable(name.clone(), why)),
        };
        let rules = match rules {
            Ok(rules) => Arc::new(rules),
            Err(why) => return self.refuse(why.to_string()),
        };
        let version = rules.version().to_string();
        if *self.told.borrow().version() == *rules.version() {
            return self.same();
        }
        *self.state() = state(&rules, Some(name.clone()));
        tracing::info!(
            event = "rules.loaded",
            version,
            rules = rules.len(),
            "New rules are in force: {} of {name}",
            rules.len()
        );
        let _ = self.told.send(rules);
        RulesLook::Taken { version }
    }

    async fn see(&self) -> Seen {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        Seen::of(read.unwrap_or_else(|why| Err(io::Error::other(why))))
    }

    fn state(&self) -> MutexGuard<'_, RulesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Back to what is in force.
    fn same(&self) -> RulesLook {
        self.state().error = None;
        RulesLook::Same
    }

    fn refuse(&self, error: String) -> RulesLook {
        let mut state = self.state();
        tracing::error!(
            event = "rules.refused",
            version = state.version,
            error,
            "The rules file is not valid; the last good rules stay in force. `oddsd rules check {}` says the same",
            self.path.display()
        );
        state.error = Some(error.clone());
        RulesLook::Refused { error }
    }
}

impl Seen {
    fn of(read: io::Result<String>) -> Self {
        match read {
            Ok(text) => Self::Text(text),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Self::Missing,
            Err(why) => Self::Unreadable(why.to_string()),
        }
    }
}

fn unreadable(file: String, why: &str) -> BadRules {
    let fault = Fault {
        line: 1,
        column: 1,
        message: format!("it cannot be read: {why}"),
    };
    BadRules {
        file,
        faults: vec![fault],
    }
}

fn read(path: &Path) -> io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > LARGEST {
        return Err(io::Error::other(format!("{size} bytes are no rules file")));
    }
    std::fs::read_to_string(path)
}

fn state(rules: &Rules, file: Option<String>) -> RulesState {
    RulesState {
        version: rules.version().to_string(),
        rules: rules.len(),
        file,
        since: Utc::now(),
        error: None,
    }
}
