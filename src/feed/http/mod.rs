//! One careful GET for every polling feed: deadlines, no redirects, a capped body, and a failure
//! that says what to do next. No message here holds a query, a header or a password: where a
//! request went is told as host and path.
//!
//! Decompression is done here and not by the client, because the client hides the compressed
//! size, and without it a gzip bomb looks like any large answer.

mod body;
mod opening;
mod words;

use std::time::Duration;

use chrono::{DateTime, Utc};
pub use reqwest::Url;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, redirect};
use secrecy::{ExposeSecret, SecretString};

use self::body::{Body, MAX_RATIO, Taker, Unusable};
use self::opening::{Odd, Opening};
use self::words::{MAX_DETAIL_CHARS, causes, message_in, redirect_host, retry_after};
use crate::feed::FeedError;
use crate::model::plain_text;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Longest silence inside an answer.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer that is kept as a whole, decompressed.
pub const MAX_BODY: usize = 64 * 1024 * 1024;
/// Largest answer that is read while it comes in: a million prices are about 210 MB.
pub const MAX_STREAMED: usize = 512 * 1024 * 1024;
/// An error's body is read for its message only.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// Who is asked, in words for messages, and for how long an answer is awaited.
#[derive(Clone, Debug)]
pub struct Provider {
    /// "The Racing API".
    pub name: &'static str,
    /// The settings to check after a 401: "RACING_API_USERNAME and RACING_API_PASSWORD".
    pub credentials: &'static str,
    /// For the whole request, body included.
    pub deadline: Duration,
}

/// How a request proves who we are.
#[derive(Clone, Copy, Debug)]
pub enum Auth<'a> {
    None,
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
    /// What no message may repeat, as it is and as `request` spells it: a refusal likes to quote
    /// what it refuses.
    fn secrets(&self, request: &reqwest::Request) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
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

/// What makes the next request for the same URL conditional. Whoever keeps what was read from an
/// answer keeps these beside it, so that "not modified" always has something to refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    etag: Option<HeaderValue>,
    last_modified: Option<HeaderValue>,
}

impl Validators {
    fn of(headers: &HeaderMap) -> Self {
        Self {
            etag: headers.get(header::ETAG).cloned(),
            last_modified: headers.get(header::LAST_MODIFIED).cloned(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// A successful answer; its body has been handed over.
#[derive(Debug)]
pub enum Answer {
    Fresh {
        headers: HeaderMap,
        validators: Validators,
    },
    /// 304 to a conditional request: what was read last time still stands.
    NotModified { headers: HeaderMap },
}

/// What to ask for, and how.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub url: Url,
    pub auth: Auth<'a>,
    /// Makes the request conditional.
    pub known: Option<&'a Validators>,
    /// Largest body taken, decompressed: [`MAX_BODY`] or [`MAX_STREAMED`].
    pub max_body: usize,
}

/// The way to one provider.
#[derive(Clone, Debug)]
pub struct HttpDoor {
    client: Client,
    provider: Provider,
}

impl HttpDoor {
    /// `base` decides whether a proxy from the environment applies: never to this machine itself.
    pub fn new(provider: Provider, base: &Url) -> Result<Self, FeedError> {
        let mut builder = Client::builder()
            .connect_timeout(CONNECT_DEADLINE.min(provider.deadline))
            .read_timeout(READ_DEADLINE.min(provider.deadline))
            .timeout(provider.deadline)
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("oddsd/", env!("CARGO_PKG_VERSION")));
        if is_loopback(base) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| FeedError::Unreachable {
            detail: format!(
                "the HTTP client for {} cannot be built: {}",
                provider.name,
                causes(e)
            ),
        })?;
        Ok(Self { client, provider })
    }

    /// One GET whose body is kept as a whole. It starts with `{` or `[`; whether it is whole JSON
    /// is for the parser to say.
    pub async fn get(
        &self,
        request: Request<'_>,
        now: DateTime<Utc>,
    ) -> Result<(Answer, String), FeedError> {
        let place = self.place(&request.url);
        let mut body = Vec::new();
        let answer = self
            .stream(request, now, &mut |chunk| {
                body.extend_from_slice(chunk);
                Ok(())
            })
            .await?;
        let body = String::from_utf8(body).map_err(|_| FeedError::BadAnswer {
            detail: format!(
                "{} at {place} sent a body that is not UTF-8, not JSON",
                self.provider.name
            ),
        })?;
        Ok((answer, body))
    }

    /// One GET whose body is handed to `each` as it comes in, decompressed, from its first `{` or
    /// `[` on. Whatever was handed over before an error is not an answer. `now` turns a `Retry-After`
    /// date into a wait.
    pub async fn stream(
        &self,
        request: Request<'_>,
        now: DateTime<Utc>,
        each: &mut (dyn FnMut(&[u8]) -> Result<(), FeedError> + Send),
    ) -> Result<Answer, FeedError> {
        let Request {
            mut url,
            auth,
            known,
            max_body,
        } = request;
        let at = At {
            provider: &self.provider,
            place: self.place(&url),
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
        let request = request.build().map_err(|e| at.unreachable(e))?;
        let secrets = auth.secrets(&request);
        let response = self.client.execute(request).await;
        let response = response.map_err(|e| at.unreachable(e))?;

        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && known.is_some_and(|k| !k.is_empty()) {
            return Ok(Answer::NotModified {
                headers: response.headers().clone(),
            });
        }
        if !status.is_success() {
            return Err(at.refusal(response, &secrets, now).await);
        }
        let headers = response.headers().clone();
        let mut opening = Opening::default();
        let mut to = |chunk: &[u8]| match opening.pass(chunk) {
            Ok([]) => Ok(()),
            Ok(chunk) => each(chunk),
            Err(odd) => Err(at.odd(odd, &headers)),
        };
        at.read(response, max_body, &mut to).await?;
        opening.finish().map_err(|odd| at.odd(odd, &headers))?;
        Ok(Answer::Fresh {
            validators: Validators::of(&headers),
            headers,
        })
    }

    /// Host and path, as messages name them.
    fn place(&self, url: &Url) -> String {
        let place = format!("{}{}", url.host_str().unwrap_or("?"), url.path());
        plain_text(&place, MAX_DETAIL_CHARS)
    }
}

/// One request, as its messages name it.
struct At<'a> {
    provider: &'a Provider,
    /// Host and path.
    place: String,
}

impl At<'_> {
    fn says(&self, what: impl std::fmt::Display) -> String {
        format!("{} at {} {what}", self.provider.name, self.place)
    }

    fn unreachable(&self, error: reqwest::Error) -> FeedError {
        let detail = if error.is_timeout() && !error.is_connect() {
            self.says(format_args!(
                "sent no complete answer within {} ms",
                self.provider.deadline.as_millis()
            ))
        } else if error.is_body() || error.is_decode() {
            self.says(format_args!(
                "broke off in the middle of its answer: {}",
                causes(error)
            ))
        } else {
            self.says(format_args!("cannot be reached: {}", causes(error)))
        };
        FeedError::Unreachable { detail }
    }

    /// A status other than success, as the kind of failure that somebody reacts to.
    async fn refusal(
        &self,
        response: Response,
        secrets: &[String],
        now: DateTime<Utc>,
    ) -> FeedError {
        let status = response.status();
        let headers = response.headers().clone();
        if status.is_redirection() {
            return FeedError::BadAnswer {
                detail: self.says(format_args!(
                    "answered {} with a redirect{}, and redirects are not followed; check the base URL",
                    status.as_u16(),
                    redirect_host(&headers),
                )),
            };
        }
        // The message is a courtesy: without a readable body the status has to do.
        let mut body = Vec::new();
        let mut keep = |chunk: &[u8]| {
            body.extend_from_slice(chunk);
            Ok(())
        };
        if self
            .read(response, MAX_ERROR_BODY, &mut keep)
            .await
            .is_err()
        {
            body.clear();
        }
        let mut detail = self.says(format_args!("answered {}", status.as_u16()));
        if let Some(message) = message_in(&body, secrets) {
            detail = format!("{detail}: {message}");
        }
        match status.as_u16() {
            401 | 403 => FeedError::Unauthorized {
                detail: format!(
                    "{detail}; check {} and what the plan allows",
                    self.provider.credentials
                ),
            },
            404 => FeedError::NotFound { detail },
            429 => FeedError::RateLimited {
                retry_after: retry_after(&headers, now),
                detail,
            },
            400..500 => FeedError::BadRequest { detail },
            500.. => FeedError::ServerError {
                status: status.as_u16(),
                detail,
            },
            _ => FeedError::BadAnswer { detail },
        }
    }

    /// Hands on the body, decompressed; an error as soon as it is known to be too large.
    async fn read(
        &self,
        mut response: Response,
        max: usize,
        to: Taker<'_>,
    ) -> Result<(), FeedError> {
        let announced = response.content_length().unwrap_or(0);
        if announced > max as u64 {
            return Err(self.unusable(Unusable::TooLarge { limit: max }, max));
        }
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        let gzip = match encoding.map(HeaderValue::as_bytes) {
            None | Some(b"" | b"identity") => false,
            Some(b"gzip" | b"x-gzip") => true,
            Some(other) => {
                let other = plain_text(&String::from_utf8_lossy(other), 40);
                return Err(FeedError::BadAnswer {
                    detail: self.says(format_args!(
                        "used the content encoding {other:?}, not gzip"
                    )),
                });
            }
        };

        let mut body = Body::new(gzip, max);
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            let pushed = body.push(&chunk, to);
            pushed.map_err(|why| self.unusable(why, max))?;
        }
        body.finish(to).map_err(|why| self.unusable(why, max))
    }

    fn unusable(&self, why: Unusable, max: usize) -> FeedError {
        match why {
            Unusable::TooLarge { limit } => FeedError::TooLarge {
                detail: self.says(format_args!(
                    "sent more than {limit} bytes (the limit is {max}, and {MAX_RATIO} times the compressed size)"
                )),
            },
            Unusable::Corrupt(error) => FeedError::BadAnswer {
                detail: self.says(format_args!("sent gzip that does not decompress: {error}")),
            },
            Unusable::Unwanted(error) => error,
        }
    }

    fn odd(&self, odd: Odd, headers: &HeaderMap) -> FeedError {
        let detail = match odd {
            Odd::Html => self.says("sent HTML instead of JSON; check the base URL"),
            Odd::Empty => self.says("sent an empty body instead of JSON"),
            Odd::Other => {
                let kind = headers.get(header::CONTENT_TYPE);
                let kind = String::from_utf8_lossy(kind.map_or(b"none", HeaderValue::as_bytes));
                self.says(format_args!(
                    "sent no JSON object or array (content type {:?})",
                    plain_text(&kind, 60)
                ))
            }
        };
        FeedError::BadAnswer { detail }
    }
}

/// A response header as text; an unreadable one counts as missing.
pub fn header_text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A provider's base URL from a setting: `https`, or anything on this machine; no credentials in it,
/// because URLs end up in places where passwords must not.
pub fn base_url(setting: &str, text: &str) -> Result<Url, FeedError> {
    let bad = |why: &str| FeedError::BadRequest {
        detail: format!("{setting} {why}"),
    };
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
