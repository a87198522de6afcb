//! Many commands and scripts in few round trips. A cluster's nodes are asked each for themselves: one that is
//! away fails what is its own.

use std::collections::BTreeMap;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, ClusterInterface};
use fred::types::config::Server;
use fred::types::{ClusterHash, CustomCommand, Value};
use fred::util::redis_keyslot;
use futures_util::future::join_all;

use super::super::call::{Call, Reply, Verb};
use super::super::{Bytes, CacheError, Targets};
use super::{Redis, connect};

/// What one round trip takes, so that no other command would notice: twenty scripts of a hundred keys, or
/// a thousand single commands.
const TRIP: usize = 1_000;

impl Call {
    /// Its share of a round trip.
    fn weight(&self) -> usize {
        match self.verb {
            Verb::Script(_) => 10 + self.keys.len() / 10,
            Verb::Command(_) => 1 + self.keys.len() / 20,
        }
    }

    pub(super) fn slot(&self) -> Option<u16> {
        self.keys.first().map(|key| redis_keyslot(key))
    }

    pub(super) async fn send<R: fred::types::FromValue>(
        &self,
        client: &impl ClientLike,
        slot: Option<u16>,
    ) -> Result<R, Error> {
        let slot = slot.map_or(ClusterHash::Random, ClusterHash::Custom);
        let mut words: Vec<Value> = Vec::with_capacity(self.keys.len() + self.args.len() + 2);
        let name = match self.verb {
            Verb::Command(name) => name,
            Verb::Script(script) => {
                words.extend([script.into(), (self.keys.len() as i64).into()]);
                "EVAL"
            }
        };
        let names = self.keys.iter().chain(&self.args);
        words.extend(names.cloned().map(Value::Bytes));
        let command = CustomCommand::new_static(name, slot, false);
        client.custom(command, words).await
    }
}

impl Redis {
    /// See `Server::call_all`.
    pub(in super::super) async fn call_all(
        &self,
        calls: &[Call],
    ) -> Vec<Result<Reply, CacheError>> {
        if calls.is_empty() {
            return Vec::new();
        }
        let _permit = match self.permit() {
            Ok(permit) => permit,
            Err(why) => return vec![Err(why); calls.len()],
        };
        if !self.is_cluster {
            let calls: Vec<&Call> = calls.iter().collect();
            return self.trips(&self.client, &calls).await;
        }
        let all: Vec<usize> = (0..calls.len()).collect();
        let asked = self.by_node(calls, all).into_values().map(|at| async move {
            let calls: Vec<&Call> = at.iter().map(|at| &calls[*at]).collect();
            at.into_iter().zip(self.trips(&self.client, &calls).await)
        });
        let mut answers = vec![Err(self.link.failure()); calls.len()];
        for (at, answer) in join_all(asked).await.into_iter().flatten() {
            answers[at] = answer;
        }
        let unheard = |at: &usize| matches!(&answers[*at], Err(why) if !why.is_answer());
        let unheard: Vec<usize> = (0..calls.len()).filter(unheard).collect();
        let asked = self
            .by_node(calls, unheard)
            .into_iter()
            .map(|(node, at)| async move {
                let calls: Vec<&Call> = at.iter().map(|at| &calls[*at]).collect();
                let answers = match node {
                    Some(node) => self.directly(node, &calls).await,
                    None => Vec::new(),
                };
                at.into_iter().zip(answers)
            });
        for (at, answer) in join_all(asked).await.into_iter().flatten() {
            answers[at] = answer;
        }
        answers
    }

    /// Which of the calls go to which node, as far as that is known.
    fn by_node(&self, calls: &[Call], which: Vec<usize>) -> BTreeMap<Option<Server>, Vec<usize>> {
        let routing = self.client.cached_cluster_state();
        let mut nodes: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for at in which {
            let routing = routing.as_ref().zip(calls[at].slot());
            let node = routing.and_then(|(routing, slot)| routing.get_server(slot).cloned());
            nodes.entry(node).or_default().push(at);
        }
        nodes
    }

    /// Over a connection for these calls alone. As long as one node of a cluster is away, the library mends
    /// its connections and speaks with none of the others.
    async fn directly(&self, node: Server, calls: &[&Call]) -> Vec<Result<Reply, CacheError>> {
        let connecting = connect::once(&self.config, node, self.command_timeout);
        match tokio::time::timeout(self.command_timeout, connecting).await {
            Ok(Ok((client, _connection))) => self.trips(&client, calls).await,
            Ok(Err(error)) => vec![Err(self.explain(error)); calls.len()],
            Err(_) => vec![Err(self.link.failure()); calls.len()],
        }
    }

    pub(in super::super) async fn call_at(
        &self,
        slot: u16,
        call: &Call,
    ) -> Result<Reply, CacheError> {
        let _permit = self.permit()?;
        let client = self.within(self.command_timeout);
        let answer = call.send(&client, Some(slot)).await;
        answer.map(read).map_err(|error| self.explain(error))
    }

    pub(in super::super) fn nodes(&self) -> Vec<Option<u16>> {
        match self.is_cluster.then(|| self.client.cached_cluster_state()) {
            Some(Some(routing)) => routing.unique_hash_slots().into_iter().map(Some).collect(),
            _ => vec![None],
        }
    }

    pub(in super::super) fn forget_first(&self, targets: &Targets) {
        if let Some(first) = &self.first {
            first.remove(targets);
        }
    }

    /// Where nobody answers a whole trip, the rest is not asked for any more.
    async fn trips(&self, client: &Client, calls: &[&Call]) -> Vec<Result<Reply, CacheError>> {
        let mut answers = Vec::with_capacity(calls.len());
        while answers.len() < calls.len() {
            let (from, mut to, mut weight) = (answers.len(), answers.len(), 0);
            while to < calls.len() && (to == from || weight + calls[to].weight() <= TRIP) {
                weight += calls[to].weight();
                to += 1;
            }
            let said = self.trip(client, &calls[from..to]).await;
            let silence = |said: &Result<Reply, CacheError>| match said {
                Err(why) if !why.is_answer() => Some(why.clone()),
                _ => None,
            };
            let nobody = said.iter().map(silence).collect::<Option<Vec<_>>>();
            answers.extend(said);
            if let Some(why) = nobody.and_then(|mut whys| whys.pop()) {
                answers.resize(calls.len(), Err(why));
            }
        }
        answers
    }

    async fn trip(&self, client: &Client, calls: &[&Call]) -> Vec<Result<Reply, CacheError>> {
        // The usual removal goes without what a pipeline costs beside.
        if let [call] = calls {
            let client = client.with_options(&self.options(self.command_timeout));
            let answer = call.send(&client, call.slot()).await;
            return vec![answer.map(read).map_err(|error| self.explain(error))];
        }
        let trip = client.pipeline();
        let trip = trip.with_options(&self.options(self.command_timeout));
        for call in calls {
            if let Err(error) = call.send::<()>(&trip, call.slot()).await {
                return vec![Err(self.explain(error)); calls.len()];
            }
        }
        let answers = trip.try_all::<Value>().await.into_iter();
        let mut answers: Vec<_> = answers
            .map(|answer| answer.map(read).map_err(|error| self.explain(error)))
            .collect();
        if answers.len() != calls.len() {
            let why = match answers.pop() {
                // A trip that failed as a whole has one answer.
                Some(Err(why)) if answers.is_empty() => why,
                _ => CacheError::Protocol {
                    detail: format!("{} did not confirm {} commands", self.host(), calls.len()),
                },
            };
            return vec![Err(why); calls.len()];
        }
        answers
    }
}

fn read(value: Value) -> Reply {
    match value {
        Value::Null => Reply::Nil,
        Value::Integer(number) => Reply::Number(number),
        Value::Array(parts) => Reply::List(parts.into_iter().map(read).collect()),
        other => other.into_bytes().map_or(Reply::Nil, |text| {
            let text: Bytes = text;
            Reply::Text(text)
        }),
    }
}
