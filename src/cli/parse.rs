//! Parses the command line and the environment for `main`. An invalid variable (also from `.env`) ends with the
//! exit code of a bad configuration and is named; an invalid argument ends with that of wrong usage.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use super::output::err;
use super::{BAD_CONFIGURATION, Cli};

pub fn parse(args: Vec<OsString>) -> Result<Cli, ExitCode> {
    let command = Cli::command().mut_args(|arg| {
        let Some(text) = arg.get_env().and_then(std::env::var_os) else {
            return arg;
        };
        let is_list = arg.get_value_delimiter().is_some();
        match text.to_str().map(str::trim) {
            // Hosting panels store an unset variable as an empty text; for a list that is a value, the empty list. A
            // variable without a name cannot exist, so the argument is unset.
            Some("") if !is_list => arg.env("").hide_env(true),
            Some(plain) if plain.len() < text.len() && !is_list => arg
                .env("")
                .hide_env(true)
                .default_value(plain.to_owned())
                .hide_default_value(true),
            _ => arg,
        }
    });
    let cli = command
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    cli.map_err(|why| {
        if why.kind() == ErrorKind::MissingSubcommand {
            // clap shows the help only while no variable is set either.
            err!("{}", Cli::command().render_help());
            return ExitCode::from(2);
        }
        let _ = why.print();
        match variable_at_fault(&why) {
            Some(variable) => {
                err!(
                    "oddsd: the value comes from the environment variable {variable} (or from .env); correct it there, \
                     or pass the flag"
                );
                ExitCode::from(BAD_CONFIGURATION)
            }
            None => ExitCode::from(u8::try_from(why.exit_code()).unwrap_or(2)),
        }
    })
}

/// The variable that holds the invalid value; `None` if the value is on the command line.
fn variable_at_fault(why: &clap::Error) -> Option<String> {
    if !matches!(
        why.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::InvalidUtf8
    ) {
        return None;
    }
    let ContextValue::String(named) = why.get(ContextKind::InvalidArg)? else {
        return None;
    };
    let mut command = Cli::command();
    command.build();
    let arg = command
        .get_arguments()
        .find(|arg| arg.to_string() == *named)?;
    let flag = format!("--{}", arg.get_long()?);
    let given = std::env::args_os().any(|given| {
        let given = given.to_string_lossy();
        given == flag || given.starts_with(&format!("{flag}="))
    });
    let variable = arg.get_env()?.to_string_lossy().into_owned();
    (!given).then_some(variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_tree_is_valid() {
        Cli::command().debug_assert();
    }
}
