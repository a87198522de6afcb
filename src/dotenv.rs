//! Reads `.env` into the environment before `main` starts any thread, and compares its names with the settings: a
//! misspelt setting must not be ignored without a word.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use clap::CommandFactory;

use crate::cli::Cli;
use oddsd_core::model::find_misspelt;

/// Names that begin so are settings of this program and of no other.
const OUR_PREFIXES: [&str; 3] = ["ODDSD_", "RACING_API_", "ODDS_API_"];
/// A variable that is read and is no setting of the command line.
const OTHERS_READ: [&str; 1] = ["RUST_LOG"];

const FORM: &str =
    ".env cannot be read; each line is NAME=value, with quotes around a value that holds spaces";

/// Loads the `.env` of this folder or of the nearest one above it. A variable of the process wins over it. Of a name
/// that is there twice the last one counts, as it does for docker and systemd. Returns warnings, or the reasons
/// why the settings cannot be meant so. No text holds a value.
pub fn load() -> Result<Vec<String>, Vec<String>> {
    let names = setting_names();
    let mut warnings: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter_map(|name| {
            let meant = misspelt(&name, &names)?;
            Some(format!(
                "the environment variable {name} is no setting; did you mean {meant}?"
            ))
        })
        .collect();
    let folder = std::env::current_dir().unwrap_or_default();
    let found = folder.ancestors().map(|folder| folder.join(".env"));
    if let Some(file) = found.into_iter().find(|file| file.is_file()) {
        let text = read(&file).map_err(|why| vec![why])?;
        let entries = Entries::parse(&text).map_err(|why| vec![why])?;
        let errors = entries.errors(&names);
        if !errors.is_empty() {
            return Err(errors);
        }
        warnings.extend(entries.repetitions());
        // dotenvy keeps the first of several, so it gets each name once.
        dotenvy::from_read(Cursor::new(entries.to_text())).map_err(|_| vec![FORM.into()])?;
    }
    Ok(warnings)
}

fn read(file: &Path) -> Result<String, String> {
    let bytes =
        std::fs::read(file).map_err(|why| format!("{} cannot be read: {why}", file.display()))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{FORM}, in UTF-8"))?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

/// The names of all settings.
fn setting_names() -> Vec<String> {
    let command = Cli::command();
    let args = command.get_arguments().filter_map(|arg| arg.get_env());
    let names = args.filter_map(|name| name.to_str().map(str::to_owned));
    names.chain(OTHERS_READ.map(String::from)).collect()
}

/// The setting that this name nearly is.
fn misspelt<'a>(name: &str, names: &'a [String]) -> Option<&'a str> {
    let is_known = names.iter().any(|known| known == name);
    (!is_known).then(|| find_misspelt(name, names.iter().map(String::as_str)))?
}

/// The entries of a `.env` in their order.
struct Entries {
    pairs: Vec<(String, String)>,
    /// The lines in which a name is set.
    lines: HashMap<String, Vec<usize>>,
}

impl Entries {
    fn parse(text: &str) -> Result<Self, String> {
        // The library's own error quotes the line, which may contain a password.
        let pairs = dotenvy::from_read_iter(Cursor::new(text));
        let pairs: Vec<_> = pairs.collect::<Result<_, _>>().map_err(|_| FORM)?;
        let mut lines: HashMap<String, Vec<usize>> = HashMap::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let line = line.strip_prefix("export ").unwrap_or(line);
            if let Some((name, _)) = line.split_once('=') {
                lines.entry(name.trim().to_owned()).or_default().push(n + 1);
            }
        }
        Ok(Self { pairs, lines })
    }

    fn place(&self, name: &str) -> String {
        let line = self.lines.get(name).and_then(|lines| lines.last());
        line.map_or_else(|| ".env".into(), |line| format!(".env:{line}"))
    }

    /// Names that nearly are a setting, or that begin as only ours do. All others belong to other programs.
    fn errors(&self, names: &[String]) -> Vec<String> {
        let mut errors = Vec::new();
        for (name, _) in self.last_of_each() {
            if names.iter().any(|known| known == name) {
                continue;
            }
            let place = self.place(name);
            if let Some(meant) = misspelt(name, names) {
                errors.push(format!(
                    "{place}: {name} is no setting; did you mean {meant}?"
                ));
            } else if let Some(prefix) =
                OUR_PREFIXES.iter().find(|prefix| name.starts_with(*prefix))
            {
                let ours = names.iter().filter(|known| known.starts_with(prefix));
                let ours = ours.map(String::as_str).collect::<Vec<_>>().join(", ");
                let remedy = match ours.as_str() {
                    "" => "the settings have no prefix; `oddsd --help` lists them".into(),
                    ours => format!("there are {ours}"),
                };
                errors.push(format!("{place}: {name} is no setting; {remedy}"));
            }
        }
        errors
    }

    fn repetitions(&self) -> impl Iterator<Item = String> {
        let pairs = self.last_of_each();
        pairs.filter_map(|(name, _)| {
            let [earlier @ .., last] = &self.lines.get(name)?[..] else {
                return None;
            };
            let first = earlier.first()?;
            Some(format!(
                ".env:{last}: {name} is also set in line {first}; the last one counts. Remove the other"
            ))
        })
    }

    fn last_of_each(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.pairs.iter().enumerate();
        let last = pairs
            .filter(|(n, (name, _))| !self.pairs[n + 1..].iter().any(|(later, _)| later == name));
        last.map(|(_, (name, value))| (name.as_str(), value.as_str()))
    }

    /// As a `.env` in which each name is set once.
    fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.last_of_each() {
            let quoted = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('$', "\\$")
                .replace('\n', "\\n");
            text += &format!("{name}=\"{quoted}\"\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        dotenvy::from_read_iter(Cursor::new(text))
            .collect::<Result<_, _>>()
            .expect("valid")
    }

    #[test]
    fn last_of_several_counts_and_every_value_stays_as_it_is() {
        let text =
            "A=1\n B = 'x y' # words\nexport A=\"2\"\nC='q\"$\\ü'\nD=${B}z\nE=\nF=\"a\\nb\"\n";
        let entries = Entries::parse(text).expect("valid");
        let expected = [
            ("B", "x y"),
            ("A", "2"),
            ("C", "q\"$\\ü"),
            ("D", "x yz"),
            ("E", ""),
            ("F", "a\nb"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(pairs(&entries.to_text()), expected);
        let told: Vec<String> = entries.repetitions().collect();
        assert_eq!(told.len(), 1);
        assert!(
            told[0].starts_with(".env:3: A is also set in line 1"),
            "{told:?}"
        );
    }

    #[test]
    fn names_that_are_nearly_ours_are_errors_and_those_of_others_are_not() {
        let names = setting_names();
        let errors = |name: &str| {
            let entries = Entries::parse(&format!("X=1\n{name}=secret\n")).expect("valid");
            entries.errors(&names)
        };
        for (name, hint) in [
            ("DATABSE_URL", "DATABASE_URL"),
            ("database_url", "DATABASE_URL"),
            ("HISTORY_DAY", "HISTORY_DAYS"),
            ("REDIS_URI", "REDIS_URL"),
            ("FEEDS", "FEED"),
            ("CORN", "CRON"),
            ("UPSTASH_REDIS_REST_TOKN", "UPSTASH_REDIS_REST_TOKEN"),
            ("RACING_API_REGION", "RACING_API_REGIONS"),
            ("RACING_API_KEY", "RACING_API_USERNAME"),
            ("ODDS_API_BOOKMAKERS", "ODDS_API_MARKETS"),
            ("ODDSD_LISTEN", "--help"),
        ] {
            let told = errors(name);
            assert_eq!(told.len(), 1, "{name}");
            assert!(
                told[0].starts_with(".env:2: ") && told[0].contains(hint),
                "{told:?}"
            );
            assert!(!told[0].contains("secret"));
        }
        for name in [
            "DATABASE_URL",
            "REDIS_URL",
            "RUST_LOG",
            "PORT",
            "HOST",
            "SEED",
            "NODE_ENV",
            "PGHOST",
            "REDIS_TLS_URL",
            "REDIS_HOST",
            "UPSTASH_REDIS_REST_READ_ONLY_TOKEN",
            "LOG_FILE",
            "TZ",
            "TOKEN",
            "EDITOR",
            "LISTEN_FDS",
            "SUPABASE_URL",
            "DIRECT_URL",
            "API_KEY",
            "CRON_SECRET",
            "CACHE_TTL",
        ] {
            assert_eq!(errors(name), [""; 0], "{name}");
        }
    }
}
