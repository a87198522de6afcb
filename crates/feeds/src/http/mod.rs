//! One HTTP GET with deadlines, a capped body, no redirects and classified failures, for the feeds that poll a
//! provider. No message holds a query, a header or a password: a request is named by its host and path.
//!
//! The body is decompressed here and not by reqwest, because reqwest removes the compressed size, and the
//! limit on the ratio of the two sizes is what stops a small gzip bomb.

mod body;
mod error_text;

use std::time::Duration;

use chrono::{DateTime, Utc};
pub use reqwest::Url;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, redirect};
use secrecy::{ExposeSecret, SecretString};

use self::body::{BodyError, MAX_RATIO, UnexpectedContent, gunzip, json_start};
pub(crate) use self::error_text::read_count;
use self::error_text::{MAX_DETAIL_CHARS, causes, message_in, redirect_host, retry_after};
use crate::FeedError;
use oddsd_core::model::sanitize_text;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Longest pause within a response.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Largest body, decompressed. A page of the largest racecards is about 18 MB.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// An error response is read only for its message.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// Names of a provider for messages, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct ProviderInfo {
    /// "The Racing API".
    pub name: &'static str,
    /// The settings to check after a 401: "RACING_API_USERNAME and RACING_API_PASSWORD".
    pub credentials: &'static str,
    /// For the whole request, body included.
    pub deadline: Duration,
}

/// How a request authenticates.
#[derive(Clone, Copy, Debug)]
pub enum Auth<'a> {
    Basic {
        username: &'a str,
        password: &'a SecretString,
    },
    /// The key as a query parameter.
    Query {
        name: &'a str,
        key: &'a SecretString,
    },
}

impl Auth<'_> {
    /// Texts that no message may repeat, as configured and as encoded in `request`: error messages of a
    /// provider may quote the request.
    fn secrets(&self, request: &reqwest::Request) -> Vec<String> {
        match self {
            Self::Basic { username, password } => {
                let header = header_text(request.headers(), &header::AUTHORIZATION);
                let encoded = header.and_then(|header| header.strip_prefix("Basic "));
                let secrets = [Some(password.expose_secret()), Some(*username), encoded];
                secrets.into_iter().flatten().map(Into::into).collect()
            }
            Self::Query { key, .. } => {
                let query = request.url().query().unwrap_or_default();
                let encoded = query.rsplit('=').next().unwrap_or_default();
                vec![key.expose_secret().into(), encoded.into()]
            }
        }
    }
}

/// Makes the next request for the same URL conditional. Callers keep it beside what they parsed from the
/// response, so that "not modified" always refers to known content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    etag: Option<HeaderValue>,
    last_modified: Option<HeaderValue>,
}

impl Validators {
    fn from_headers(headers: &HeaderMap) -> Self {
        Self {
            etag: headers.get(header::ETAG).cloned(),
            last_modified: headers.get(header::LAST_MODIFIED).cloned(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// A successful response.
#[derive(Debug)]
pub enum ProviderResponse {
    Fresh {
        headers: HeaderMap,
        validators: Validators,
        /// From its first `{` or `[` on. Whether it is valid JSON is for the parser to decide.
        body: String,
    },
    /// 304 to a conditional request: the content of the last response is still valid.
    NotModified,
}

/// The HTTP client of one provider.
#[derive(Clone, Debug)]
pub struct ProviderClient {
    client: Client,
    provider: ProviderInfo,
}

impl ProviderClient {
    /// A proxy from the environment is not used if `base` is on this machine.
    pub fn new(provider: ProviderInfo, base: &Url) -> Result<Self, FeedError> {
        let mut builder = Client::builder()
            .connect_timeout(CONNECT_DEADLINE.min(provider.deadline))
            .read_timeout(READ_DEADLINE.min(provider.deadline))
            .timeout(provider.deadline)
            .redirect(redirect::Policy::none())
            .no_gzip()
            .referer(false)
            .user_agent(concat!("oddsd/", env!("CARGO_PKG_VERSION")));
        if is_loopback(base) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| {
            FeedError::Unreachable(format!(
                "the HTTP client for {} cannot be built: {}",
                provider.name,
                causes(e)
            ))
        })?;
        Ok(Self { client, provider })
    }

    /// Sends one GET, a conditional one with `known`, and reads its whole body. `now` turns a `Retry-After` date
    /// into a wait.
    pub async fn get(
        &self,
        mut url: Url,
        auth: Auth<'_>,
        known: Option<&Validators>,
        now: DateTime<Utc>,
    ) -> Result<ProviderResponse, FeedError> {
        let context = RequestContext {
            provider: &self.provider,
            place: host_and_path(&url),
        };
        if let Auth::Query { name, key } = auth {
            url.query_pairs_mut().append_pair(name, key.expose_secret());
        }
        let mut request = self
            .client
            .get(url)
            .header(header::ACCEPT, "application/json")
            .header(header::ACCEPT_ENCODING, "gzip");
        if let Auth::Basic { username, password } = auth {
            request = request.basic_auth(username, Some(password.expose_secret()));
        }
        if let Some(etag) = known.and_then(|k| k.etag.clone()) {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        if let Some(date) = known.and_then(|k| k.last_modified.clone()) {
            request = request.header(header::IF_MODIFIED_SINCE, date);
        }
        let request = request.build().map_err(|e| context.unreachable(e))?;
        let secrets = auth.secrets(&request);
        let response = self.client.execute(request).await;
        let response = response.map_err(|e| context.unreachable(e))?;

        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && known.is_some_and(|k| !k.is_empty()) {
            return Ok(ProviderResponse::NotModified);
        }
        if !status.is_success() {
            return Err(context.error_response(response, &secrets, now).await);
        }
        let headers = response.headers().clone();
        let mut body = context.read_body(response, MAX_BODY).await?;
        let start = json_start(&body).map_err(|found| context.unexpected(found, &headers))?;
        body.drain(..start);
        let body = String::from_utf8(body)
            .map_err(|_| context.bad_answer("sent a body that is not UTF-8, not JSON"))?;
        Ok(ProviderResponse::Fresh {
            validators: Validators::from_headers(&headers),
            headers,
            body,
        })
    }
}

/// Host and path, as messages name them.
fn host_and_path(url: &Url) -> String {
    let place = format!("{}{}", url.host_str().unwrap_or("?"), url.path());
    sanitize_text(&place, MAX_DETAIL_CHARS)
}

/// One request, as messages name it.
struct RequestContext<'a> {
    provider: &'a ProviderInfo,
    /// Host and path.
    place: String,
}

impl RequestContext<'_> {
    fn describe(&self, what: impl std::fmt::Display) -> String {
        format!("{} at {} {what}", self.provider.name, self.place)
    }

    fn bad_answer(&self, what: impl std::fmt::Display) -> FeedError {
        FeedError::BadAnswer(self.describe(what))
    }

    fn unreachable(&self, error: reqwest::Error) -> FeedError {
        let detail = if error.is_timeout() && !error.is_connect() {
            self.describe(format_args!(
                "sent no complete answer within {} ms",
                self.provider.deadline.as_millis()
            ))
        } else if error.is_body() || error.is_decode() {
            self.describe(format_args!(
                "broke off in the middle of its answer: {}",
                causes(error)
            ))
        } else {
            self.describe(format_args!("cannot be reached: {}", causes(error)))
        };
        FeedError::Unreachable(detail)
    }

    /// Maps a status other than success to the error that callers branch on.
    async fn error_response(
        &self,
        response: Response,
        secrets: &[String],
        now: DateTime<Utc>,
    ) -> FeedError {
        let status = response.status();
        let headers = response.headers().clone();
        if status.is_redirection() {
            return self.bad_answer(format_args!(
                "answered {} with a redirect{}, and redirects are not followed; check the base URL",
                status.as_u16(),
                redirect_host(&headers),
            ));
        }
        // Without a readable body the status alone is reported.
        let body = self.read_body(response, MAX_ERROR_BODY).await;
        let body = body.unwrap_or_default();
        let mut detail = self.describe(format_args!("answered {}", status.as_u16()));
        if let Some(message) = message_in(&body, secrets) {
            detail = format!("{detail}: {message}");
        }
        let wait = retry_after(&headers, now);
        match status.as_u16() {
            401 | 403 => FeedError::Unauthorized(format!(
                "{detail}; check {} and what the plan allows",
                self.provider.credentials
            )),
            // A page for people comes from a proxy or a wrong path, and says nothing about the event.
            404 if matches!(json_start(&body), Err(UnexpectedContent::Html)) => {
                FeedError::BadRequest(format!("{detail} with HTML; is the base URL right?"))
            }
            404 => FeedError::NotFound(detail),
            429 => FeedError::RateLimited {
                retry_after: wait,
                detail,
            },
            // The provider itself says when it is back.
            503 if wait.is_some() => FeedError::RateLimited {
                retry_after: wait,
                detail,
            },
            400..500 => FeedError::BadRequest(detail),
            500.. => FeedError::ServerError(detail),
            _ => FeedError::BadAnswer(detail),
        }
    }

    /// Reads and decompresses the body; fails as soon as it is known to be too large.
    async fn read_body(&self, mut response: Response, max: usize) -> Result<Vec<u8>, FeedError> {
        let announced = response.content_length().unwrap_or(0);
        if announced > max as u64 {
            return Err(self.body_error(BodyError::TooLarge { limit: max }, max));
        }
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        let is_gzip = match encoding.map(HeaderValue::as_bytes) {
            None | Some(b"" | b"identity") => false,
            Some(b"gzip" | b"x-gzip") => true,
            Some(other) => {
                let other = sanitize_text(&String::from_utf8_lossy(other), 40);
                return Err(self.bad_answer(format_args!(
                    "used the content encoding {other:?}, not gzip"
                )));
            }
        };
        let mut body = Vec::with_capacity(announced as usize);
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            if body.len() + chunk.len() > max {
                return Err(self.body_error(BodyError::TooLarge { limit: max }, max));
            }
            body.extend_from_slice(&chunk);
        }
        match is_gzip {
            true => gunzip(&body, max).map_err(|why| self.body_error(why, max)),
            false => Ok(body),
        }
    }

    fn body_error(&self, why: BodyError, max: usize) -> FeedError {
        match why {
            BodyError::TooLarge { limit } => FeedError::TooLarge(self.describe(format_args!(
                "sent more than {limit} bytes (the limit is {max}, and {MAX_RATIO} times the compressed size)"
            ))),
            BodyError::Corrupt(error) => {
                self.bad_answer(format_args!("sent gzip that does not decompress: {error}"))
            }
        }
    }

    fn unexpected(&self, found: UnexpectedContent, headers: &HeaderMap) -> FeedError {
        match found {
            UnexpectedContent::Html => {
                self.bad_answer("sent HTML instead of JSON; check the base URL")
            }
            UnexpectedContent::Empty => self.bad_answer("sent an empty body instead of JSON"),
            UnexpectedContent::Other => {
                let kind = headers.get(header::CONTENT_TYPE);
                let kind = String::from_utf8_lossy(kind.map_or(b"none", HeaderValue::as_bytes));
                self.bad_answer(format_args!(
                    "sent no JSON object or array (content type {:?})",
                    sanitize_text(&kind, 60)
                ))
            }
        }
    }
}

/// A response header as text; an unreadable one counts as missing.
pub fn header_text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Parses a provider's base URL from a setting: `https`, or any URL of this machine. Credentials in it are
/// refused, because URLs appear in messages.
pub fn base_url(setting: &str, text: &str) -> Result<Url, FeedError> {
    let bad = |why: &str| FeedError::BadRequest(format!("{setting} {why}"));
    let mut url =
        Url::parse(text.trim()).map_err(|e| bad(&format!("is not an absolute URL: {e}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("holds a user or password; set them by their own names"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad(
            "holds a query or fragment; give scheme, host and path only",
        ));
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        _ => {
            return Err(bad(
                "must begin with https:// (http:// only on this machine)",
            ));
        }
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || ip.is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_https_or_this_machine_and_holds_no_password() {
        let base = |text| base_url("RACING_API_URL", text);
        assert!(base("https://api.theracingapi.com/v1/").is_ok());
        assert!(base("http://127.0.0.1:8080/v1").is_ok());
        assert!(base("http://[::1]:8080").is_ok());
        for bad in [
            "http://api.theracingapi.com/v1",
            "https://user:hunter2@api.theracingapi.com",
            "api.theracingapi.com",
            "file:///etc/passwd",
            "https://x/?key=hunter2",
        ] {
            let error = base(bad).expect_err(bad).to_string();
            assert!(error.contains("RACING_API_URL"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
