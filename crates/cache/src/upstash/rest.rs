//! The HTTP client of the Upstash transport: POST of a JSON array, answers of a bounded size, their
//! errors without the token. `UpstashTransport` calls it.

use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::command::Limits;
use super::super::connection::ServerInfo;
use super::super::error::CacheError;
use oddsd_core::key::Namespace;
use oddsd_core::model::{sanitize_text, strip_byte_order_mark};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Room for the largest stored value, escaped.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// Sent back on each request, it makes a read see earlier writes. Empty before the first answer.
const SYNC_TOKEN: &str = "upstash-sync-token";

/// The most that an error page adds to a log line.
const EXCERPT_CHARS: usize = 120;

pub(super) struct RestClient {
    http: Client,
    url: Url,
    token: SecretString,
    pub server: ServerInfo,
    sync_token: Mutex<HeaderValue>,
}

#[derive(Default, Deserialize)]
struct RestAnswer {
    #[serde(default, deserialize_with = "even_null")]
    result: Option<Value>,
    error: Option<String>,
}

/// `{"result":null}` holds a result, `{}` does not.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl RestClient {
    /// Sends nothing yet. Fails on a URL or token that can never work.
    pub fn open(
        url: &str,
        token: &SecretString,
        limits: &'static Limits,
        namespace: Namespace,
        command_timeout: Duration,
    ) -> anyhow::Result<Self> {
        let url: Url = url
            .trim()
            .parse()
            .ok()
            .context("UPSTASH_REDIS_REST_URL cannot be read: it is https://name.upstash.io, as the Upstash console shows it")?;
        let is_loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        anyhow::ensure!(
            url.scheme() == "https" || (url.scheme() == "http" && is_loopback),
            "UPSTASH_REDIS_REST_URL must begin with https:// (the token would travel in the clear)"
        );
        anyhow::ensure!(
            url.username().is_empty() && url.password().is_none(),
            "UPSTASH_REDIS_REST_URL must not hold credentials: put the token into UPSTASH_REDIS_REST_TOKEN"
        );
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret().trim()))
            .ok()
            .context(
                "UPSTASH_REDIS_REST_TOKEN holds characters that no header takes: copy it again",
            )?;
        bearer.set_sensitive(true);
        let http = Client::builder()
            .default_headers(HeaderMap::from_iter([
                (AUTHORIZATION, bearer),
                // As the official clients; compatible servers do not parse the body without it.
                (CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (
                    USER_AGENT,
                    HeaderValue::from_static(concat!("oddsd/", env!("CARGO_PKG_VERSION"))),
                ),
            ]))
            .connect_timeout(CONNECT_TIMEOUT.min(command_timeout))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("the HTTP client for Upstash cannot be built")?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        Ok(Self {
            http,
            url,
            token: token.clone(),
            server: ServerInfo::new(limits, host, namespace, command_timeout),
            sync_token: Mutex::new(HeaderValue::from_static("")),
        })
    }

    /// Sends one command, and reports the outcome to the connection status.
    pub async fn command(&self, command: String, deadline: Duration) -> Result<Value, CacheError> {
        let answer = self.exchange(self.url.clone(), command, deadline).await;
        let answer = answer.and_then(|(status, text)| self.read(status, &text));
        self.report(answer.as_ref().err(), deadline);
        answer
    }

    /// Sends commands in one request, and reports the outcome to the connection status. Returns an answer
    /// each: success is status 200 **and** a result in every item. `Err`: the request as a whole failed.
    pub async fn commands(
        &self,
        commands: &[String],
    ) -> Result<Vec<Result<Value, CacheError>>, CacheError> {
        let deadline = self.server.command_timeout;
        if let [command] = commands {
            let answer = self.command(command.clone(), deadline).await?;
            return Ok(vec![Ok(answer)]);
        }
        let (mut url, body) = (self.url.clone(), format!("[{}]", commands.join(",")));
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("pipeline");
        }
        let answer = self.exchange(url, body, deadline).await;
        let answers =
            answer.and_then(|(status, text)| self.read_all(status, &text, commands.len()));
        let failure = match &answers {
            Ok(items) => items.iter().find_map(|item| item.as_ref().err()),
            Err(why) => Some(why),
        };
        self.report(failure, deadline);
        answers
    }

    async fn exchange(
        &self,
        url: Url,
        body: String,
        deadline: Duration,
    ) -> Result<(StatusCode, Vec<u8>), CacheError> {
        let answer = tokio::time::timeout(deadline, self.send(url, body)).await;
        answer.unwrap_or_else(|_| Err(self.timeout()))
    }

    fn report(&self, failure: Option<&CacheError>, deadline: Duration) {
        match failure {
            None => self.server.set_up(),
            // A reader's short deadline proves nothing about the service.
            Some(CacheError::Timeout(_)) if deadline < self.server.command_timeout => {}
            Some(CacheError::TooLarge(_) | CacheError::Protocol(_)) => {}
            Some(why) => self.server.set_down(why.clone()),
        }
    }

    async fn send(&self, url: Url, body: String) -> Result<(StatusCode, Vec<u8>), CacheError> {
        let token = self.sync_token.lock().clone();
        let request = self.http.post(url).body(body).header(SYNC_TOKEN, token);
        let mut response = request
            .send()
            .await
            .map_err(|error| self.unreachable(error))?;
        if let Some(token) = response.headers().get(SYNC_TOKEN) {
            *self.sync_token.lock() = token.clone();
        }
        let status = response.status();
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            if text.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(CacheError::TooLarge(format!(
                    "{} answered with over {MAX_ANSWER_BYTES} bytes",
                    self.server.host
                )));
            }
            text.extend_from_slice(&chunk);
        }
        let mark = text.len() - strip_byte_order_mark(&text).len();
        text.drain(..mark);
        Ok((status, text))
    }

    fn read_all(
        &self,
        status: StatusCode,
        text: &[u8],
        asked: usize,
    ) -> Result<Vec<Result<Value, CacheError>>, CacheError> {
        let items: Option<Vec<RestAnswer>> = match status {
            StatusCode::OK => serde_json::from_slice(text).ok(),
            _ => None,
        };
        let Some(items) = items else {
            // The request as a whole was refused: the answer has the form of a single command's.
            let whole = self.read(status, text)?.to_string();
            return Err(CacheError::Protocol(format!(
                "{} answered a pipeline with {}",
                self.server.host,
                self.excerpt(&whole)
            )));
        };
        if items.len() != asked {
            let detail = format!(
                "{} answered {} of {asked} commands",
                self.server.host,
                items.len()
            );
            return Err(CacheError::Protocol(detail));
        }
        let items = items.into_iter().enumerate().map(|(n, item)| {
            if item.result.is_none() && item.error.is_none() {
                return Err(CacheError::Protocol(format!(
                    "{} answered command {} of {asked} with neither a result nor an error",
                    self.server.host,
                    n + 1
                )));
            }
            self.item(status, item, text)
        });
        Ok(items.collect())
    }

    /// Success is status 200 **and** a result.
    fn read(&self, status: StatusCode, text: &[u8]) -> Result<Value, CacheError> {
        let answer = serde_json::from_slice(text).unwrap_or_default();
        self.item(status, answer, text)
    }

    fn item(
        &self,
        status: StatusCode,
        answer: RestAnswer,
        text: &[u8],
    ) -> Result<Value, CacheError> {
        let (result, error) = (answer.result, answer.error);
        if let (StatusCode::OK, Some(value), None) = (status, result, &error) {
            return Ok(value);
        }
        let host = &self.server.host;
        let text = error.unwrap_or_else(|| String::from_utf8_lossy(text).into_owned());
        let text = self.excerpt(&text);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(CacheError::Refused(format!(
                "{host} refused the token ({status}): {text}. Check UPSTASH_REDIS_REST_TOKEN"
            ))),
            StatusCode::TOO_MANY_REQUESTS => Err(CacheError::Down(format!(
                "{host} is over its request limit: {text}"
            ))),
            StatusCode::PAYLOAD_TOO_LARGE => Err(CacheError::TooLarge(format!(
                "{host} takes no request of this size: {text}"
            ))),
            status if status.is_server_error() => Err(CacheError::Down(format!(
                "{host} answered {status}: {text}"
            ))),
            StatusCode::OK | StatusCode::BAD_REQUEST => Err(CacheError::from_reply(
                host,
                "UPSTASH_REDIS_REST_TOKEN",
                &text,
            )),
            status => Err(CacheError::Protocol(format!(
                "{host} answered {status}: {text}"
            ))),
        }
    }

    fn timeout(&self) -> CacheError {
        CacheError::Timeout(format!("{} did not answer in time", self.server.host))
    }

    fn unreachable(&self, error: reqwest::Error) -> CacheError {
        let error = error.without_url();
        if error.is_timeout() {
            return self.timeout();
        }
        CacheError::Down(format!(
            "cannot reach {}: {:#}",
            self.server.host,
            anyhow::Error::new(error)
        ))
    }

    /// A short part of an answer for an error text, without the token: refusals quote it.
    fn excerpt(&self, text: &str) -> String {
        let token = self.token.expose_secret().trim();
        let escaped = Value::from(token).to_string();
        let text = text.replace(token, "***");
        sanitize_text(
            &text.replace(escaped.trim_matches('"'), "***"),
            EXCERPT_CHARS,
        )
    }
}
