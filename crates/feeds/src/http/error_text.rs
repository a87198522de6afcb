//! Extracts messages and waiting times from error responses, for the messages of `ProviderClient`. No result
//! holds a URL, a query or a secret.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Url;
use reqwest::header::{self, HeaderMap};

use super::header_text;
use oddsd_core::model::{sanitize_text, strip_byte_order_mark};

/// Messages are for one line of a log.
pub(super) const MAX_DETAIL_CHARS: usize = 200;
/// A wrong clock or a hostile header must not stop a feed for longer. A spent day's quota is the longest wait that
/// a provider has reason to ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads a count in a header, seen as `498` and as `498.0`. A negative one is 0, and a huge one the largest.
pub(crate) fn read_count(text: &str) -> Option<u64> {
    read_number(text).map(|number| number as u64)
}

fn read_number(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|number: &f64| !number.is_nan())
}

/// `Retry-After` as seconds or as an HTTP date. A date is compared with the response's own `Date` header
/// where there is one, so that our clock does not matter.
pub(super) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = header_text(headers, &header::RETRY_AFTER)?.trim();
    let wait = match read_number(text) {
        Some(seconds) => Duration::from_secs(seconds.ceil() as u64),
        None => {
            let date = |text| DateTime::parse_from_rfc2822(text).ok();
            let sent = header_text(headers, &header::DATE).and_then(date);
            let sent = sent.map_or(now, |date| date.with_timezone(&Utc));
            let until = date(text)?.with_timezone(&Utc);
            (until - sent).to_std().unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

pub(super) fn redirect_host(headers: &HeaderMap) -> String {
    header_text(headers, &header::LOCATION)
        .and_then(|location| Url::parse(location).ok())
        .and_then(|url| {
            url.host_str()
                .map(|host| format!(" to {}", sanitize_text(host, 80)))
        })
        .unwrap_or_default()
}

/// The message in an error response of a known JSON shape: `detail` as text or as FastAPI's list (its
/// first `msg`), else `message` or `error`, with an `error_code` in front.
pub(super) fn message_in(body: &[u8], secrets: &[String]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(strip_byte_order_mark(body)).ok()?;
    let text = json["detail"]
        .as_str()
        .or_else(|| json["detail"][0]["msg"].as_str())
        .or_else(|| json["message"].as_str())
        .or_else(|| json["error"].as_str())?;
    let mut text = match json["error_code"].as_str() {
        Some(code) => format!("{code}: {text}"),
        None => text.to_owned(),
    };
    // Replacing a user name of one or two letters would make every message unreadable.
    for secret in secrets.iter().filter(|secret| secret.len() > 2) {
        text = text.replace(secret.as_str(), "***");
    }
    Some(sanitize_text(&text, MAX_DETAIL_CHARS))
}

/// An error and its causes in one line, without the URL.
pub(super) fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    sanitize_text(&line, MAX_DETAIL_CHARS)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_reads_seconds_and_dates_and_has_a_ceiling() {
        let now = DateTime::parse_from_rfc3339("2025-10-13T13:00:00Z").expect("valid");
        let wait = |text: &str| {
            let headers = HeaderMap::from_iter([(
                header::RETRY_AFTER,
                HeaderValue::from_str(text).expect("ascii"),
            )]);
            retry_after(&headers, now.to_utc()).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait("Mon, 13 Oct 2025 13:00:30 GMT"), Some(30));
        assert_eq!(wait("Mon, 13 Oct 2025 12:00:00 GMT"), Some(0));
        assert_eq!(wait("18446744073709551615"), Some(86_400));
        assert_eq!(wait("99999999999999999999999"), Some(86_400));
        assert_eq!(wait("59.2"), Some(60));
        assert_eq!(wait("60.0"), Some(60));
        assert_eq!(wait("-5"), Some(0));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait(""), None);
    }

    #[test]
    fn count_in_a_header_is_read_in_every_form() {
        for (text, count) in [
            ("498", Some(498)),
            (" 498.0 ", Some(498)),
            ("4.98e2", Some(498)),
            ("0.9", Some(0)),
            ("-3", Some(0)),
            ("-3.0", Some(0)),
            ("-0", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("-99999999999999999999999", Some(0)),
            ("", None),
            (" ", None),
            ("NaN", None),
            ("many", None),
        ] {
            assert_eq!(read_count(text), count, "{text:?}");
        }
    }

    #[test]
    fn a_message_is_found_in_every_known_shape_and_never_repeats_the_key() {
        let says = |body: &str| message_in(body.as_bytes(), &["k3y".to_owned()]);
        assert_eq!(
            says(r#"{"detail":[{"loc":["query","date"],"msg":"bad date","type":"v"}]}"#).as_deref(),
            Some("bad date")
        );
        assert_eq!(
            says(r#"{"message":"key k3y is spent","error_code":"OUT_OF_USAGE_CREDITS"}"#)
                .as_deref(),
            Some("OUT_OF_USAGE_CREDITS: key *** is spent")
        );
        assert_eq!(
            says("\u{feff}{\"detail\":\"closed\"}").as_deref(),
            Some("closed")
        );
        assert_eq!(says("<html>"), None);
    }
}
