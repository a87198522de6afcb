//! Parsers of settings that are neither plain numbers nor plain texts. clap calls them; an error names what
//! would be valid.

use chrono_tz::Tz;

use super::Listen;

pub(super) fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share between 0 and 1, e.g. 0.5".into()),
    }
}

pub(super) fn timezone(text: &str) -> Result<Tz, String> {
    text.parse()
        .map_err(|_| "the name of a time zone, e.g. UTC or Europe/London".into())
}

pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1000.0).contains(&rate) => Ok(rate),
        _ => Err("requests a second, 0.001 to 1000, e.g. 2".into()),
    }
}

pub(super) fn listen(text: &str) -> Result<Listen, String> {
    match text.trim() {
        "" | "off" => Ok(Listen::Off),
        address => address
            .parse()
            .map(Listen::At)
            .map_err(|_| "an address and port such as 127.0.0.1:8080, or \"off\"".into()),
    }
}
