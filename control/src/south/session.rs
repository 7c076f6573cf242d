//! One agent's stream, from Hello to its end.
//!
//! Two loops run side by side and share only what the agent has not answered yet: `listen` takes what the agent says,
//! one message at a time, each durable before the next is read; `push` sends the desired set. Both are
//! levels, so either may be cut at any point: the next session begins with everything again.
//!
//! Deliberately absent: queues. An agent that does not read, or says nothing, for three heartbeats loses its session.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_proto::v1::from_agent::Message as Said;
use longshore_proto::v1::session_server::Session;
use longshore_proto::v1::to_agent::Message as Say;
use longshore_proto::v1::{
    Ack, DefinitionBody, Desired, FromAgent, HeartbeatAnswer, HeldTask, Hello, Nack, NackKind,
    Reconnect, Report, ReportStored, ToAgent, Welcome,
};
use longshore_proto::{OLDEST_PROTOCOL, PROTOCOL, parts};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::desired::Hash;
use super::enrollment::store_failed;
use super::identity::{Identity, Peer};
use super::instance::{self, Entry};
use super::{South, adoption, bounds, desired, report};

/// Changes that come this close together travel in one set.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// An agent that misses definitions is sent them again, but not faster than this.
const PAUSE: Duration = Duration::from_secs(1);

/// The service; each stream runs in a task of its own.
#[derive(Debug)]
pub(super) struct Sessions(pub(super) Arc<South>);

type Out = mpsc::Sender<Result<ToAgent, Status>>;

#[tonic::async_trait]
impl Session for Sessions {
    type ConnectStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = self.0.peer(&request)?;
        if peer.expired {
            return Err(Status::failed_precondition(
                "the client certificate has expired: renew it (Enrollment.Renew), then connect",
            ));
        }
        let inbound = request.into_inner();
        let (out, messages) = mpsc::channel(16);
        let south = self.0.clone();
        tokio::spawn(async move {
            let patience = south.patience();
            if let Err(status) = attend(south, peer, inbound, &out).await {
                // If the agent is gone there is nobody left to tell.
                timeout(patience, out.send(Err(status))).await.ok();
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl South {
    /// How long a silence, or an unread message, may last.
    pub(super) fn patience(&self) -> Duration {
        self.config.heartbeat * 3
    }
}

/// Seats the agent, talks with it, and marks it gone unless a newer session has its seat.
async fn attend(
    south: Arc<South>,
    peer: Peer,
    mut inbound: Streaming<FromAgent>,
    out: &Out,
) -> Result<(), Status> {
    let hello = first(&south, &mut inbound).await?;
    let greeting = Greeting::check(&hello).map_err(Status::invalid_argument)?;
    let key = peer.identity.key();
    let seat = south.registry.take(&key).await;
    let foreign = hello.store_id != south.store.id();
    let entry = south
        .store
        .run(move |store| {
            instance::enter(store, &peer, &greeting.facts, foreign).map(|e| (e, peer))
        })
        .await;
    let ended = match entry {
        Err(error) => Err(store_failed(&error)),
        Ok((Entry::Gone, peer)) => return Err(instance::gone(&peer.identity)),
        Ok((Entry::Entered(base), peer)) => {
            let exchange = Exchange {
                patience: south.patience(),
                from: peer.identity,
                out: out.clone(),
                unanswered: Mutex::default(),
                missing: Notify::new(),
                south: south.clone(),
            };
            tracing::info!(instance = exchange.from.instance, "agent connected");
            // A future of this store: a backup was restored under its old id.
            let adopt = foreign || hello.generation > base;
            let talk = exchange.converse(inbound, greeting.definitions, base, adopt);
            tokio::select! {
                ended = talk => ended,
                () = seat.replaced() => Err(Status::aborted("a newer session of this instance has begun")),
            }
        }
    };
    if !seat.is_replaced() {
        tracing::info!(key, "agent disconnected");
        if let Err(error) = south
            .store
            .run(move |store| instance::disconnect(store, &key))
            .await
        {
            tracing::error!(%error, "marking an instance disconnected failed");
        }
    }
    drop(seat);
    ended
}

/// Waits for the Hello.
async fn first(south: &South, inbound: &mut Streaming<FromAgent>) -> Result<Hello, Status> {
    let waited = timeout(south.patience(), inbound.message()).await;
    let message = waited.map_err(|_| Status::deadline_exceeded("no Hello came"))??;
    match message.and_then(|m| m.message) {
        Some(Said::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("a session begins with Hello")),
    }
}

/// A Hello, checked.
struct Greeting {
    facts: instance::Facts,
    definitions: HashSet<Hash>,
}

impl Greeting {
    fn check(hello: &Hello) -> Result<Greeting, String> {
        if hello.protocol < OLDEST_PROTOCOL {
            return Err(format!(
                "the agent speaks protocol {}, this control plane {OLDEST_PROTOCOL} to {PROTOCOL}: upgrade the agent",
                hello.protocol
            ));
        }
        let registration = hello.registration.as_ref().ok_or("registration: missing")?;
        bounds::count("definitions", hello.definitions.len(), bounds::TASKS)?;
        let hashes = hello.definitions.iter().map(|hash| hash[..].try_into());
        Ok(Greeting {
            facts: instance::facts(registration, &hello.agent_version)?,
            definitions: hashes
                .collect::<Result<_, _>>()
                .map_err(|_| "definitions: not SHA-256")?,
        })
    }
}

/// The conversation of one session.
struct Exchange {
    south: Arc<South>,
    from: Identity,
    out: Out,
    patience: Duration,
    /// ARNs of the last set that were neither acked nor nacked, and the set's generation.
    unanswered: Mutex<HashMap<String, u64>>,
    /// The agent lacks a definition that it was thought to hold.
    missing: Notify,
}

impl Exchange {
    async fn converse(
        &self,
        mut inbound: Streaming<FromAgent>,
        definitions: HashSet<Hash>,
        mut base: u64,
        adopt: bool,
    ) -> Result<(), Status> {
        let changed = self.south.placed.subscribe(&self.from.instance);
        self.say(Say::Welcome(self.welcome(adopt))).await?;
        if adopt {
            base = base.max(self.adopt(&mut inbound).await?);
        }
        tokio::select! {
            ended = self.listen(inbound) => ended,
            ended = self.push(definitions, changed, base) => ended,
            () = sleep(self.age()) => self.say(Say::Reconnect(Reconnect {})).await,
            () = self.south.closing() => self.say(Say::Reconnect(Reconnect {})).await,
        }
    }

    fn welcome(&self, adopt: bool) -> Welcome {
        let milliseconds = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let config = &self.south.config;
        Welcome {
            protocol: PROTOCOL,
            instance_arn: self.south.arns.instance(&self.from),
            cluster: self.from.cluster.clone(),
            store_id: self.south.store.id().to_owned(),
            heartbeat_milliseconds: u32::try_from(milliseconds(config.heartbeat))
                .unwrap_or(u32::MAX),
            maximum_age_milliseconds: milliseconds(config.maximum_age),
            adopt,
        }
    }

    /// The maximum age and up to a tenth more, so that hosts that came together do not come back together.
    fn age(&self) -> Duration {
        let tenth = u32::from(crate::id::random::<1>()[0]);
        let age = self.south.config.maximum_age;
        age + age * tenth / 2560
    }

    async fn say(&self, message: Say) -> Result<(), Status> {
        let message = ToAgent {
            message: Some(message),
        };
        match timeout(self.patience, self.out.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the agent has gone")),
            Err(_) => Err(Status::deadline_exceeded("the agent does not read")),
        }
    }

    /// Hears what the agent holds, to the last part, and enters what is new.
    async fn adopt(&self, inbound: &mut Streaming<FromAgent>) -> Result<u64, Status> {
        let mut held: Vec<HeldTask> = Vec::new();
        loop {
            match self.hear(inbound).await? {
                None => return Err(Status::cancelled("the agent has gone")),
                Some(Said::Heartbeat(beat)) => self.answer(beat.sequence).await?,
                Some(Said::Held(part)) => {
                    held.extend(part.tasks);
                    bounds::count("held", held.len(), bounds::TASKS)
                        .map_err(Status::invalid_argument)?;
                    if part.part + 1 >= part.parts {
                        break;
                    }
                }
                Some(_) => {
                    return Err(Status::invalid_argument(
                        "Held comes first after Welcome.adopt",
                    ));
                }
            }
        }
        let (arns, from) = (self.south.arns.clone(), self.from.clone());
        let entered = self
            .south
            .store
            .run(move |store| adoption::adopt(store, &arns, &from, held));
        let (revision, refused) = entered.await.map_err(|e| store_failed(&e))?;
        for why in refused {
            tracing::warn!(
                instance = self.from.instance,
                why,
                "a held task cannot be adopted"
            );
        }
        Ok(revision)
    }

    /// The next message; an error when the agent is silent for too long.
    async fn hear(&self, inbound: &mut Streaming<FromAgent>) -> Result<Option<Said>, Status> {
        match timeout(self.patience, inbound.message()).await {
            Err(_) => Err(Status::deadline_exceeded("three heartbeats of silence")),
            Ok(Err(status)) => Err(status),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(FromAgent { message: None }))) => Err(Status::invalid_argument(
                "a message unknown to this protocol version",
            )),
            Ok(Ok(Some(FromAgent { message }))) => Ok(message),
        }
    }

    async fn listen(&self, mut inbound: Streaming<FromAgent>) -> Result<(), Status> {
        while let Some(said) = self.hear(&mut inbound).await? {
            match said {
                Said::Heartbeat(beat) => self.answer(beat.sequence).await?,
                Said::Ack(ack) => self.acked(&ack),
                Said::Nack(nack) => self.nacked(nack).await?,
                Said::Report(report) => self.reported(report).await?,
                Said::OrphanQuestion(question) => self.asked(question.arns).await?,
                Said::Hello(_) | Said::Held(_) => {
                    return Err(Status::invalid_argument(
                        "Hello and Held come once, at the beginning",
                    ));
                }
            }
        }
        Ok(())
    }

    async fn answer(&self, sequence: u64) -> Result<(), Status> {
        self.say(Say::HeartbeatAnswer(HeartbeatAnswer { sequence }))
            .await
    }

    fn acked(&self, ack: &Ack) {
        let mut unanswered = self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if unanswered
            .get(&ack.arn)
            .is_some_and(|sent| ack.generation >= *sent)
        {
            unanswered.remove(&ack.arn);
        }
    }

    async fn nacked(&self, nack: Nack) -> Result<(), Status> {
        if nack.kind() == NackKind::DefinitionMissing {
            self.missing.notify_one();
            return Ok(());
        }
        self.acked(&Ack {
            arn: nack.arn.clone(),
            generation: nack.generation,
        });
        let Some(id) = self.south.arns.task_id(&self.from.cluster, &nack.arn) else {
            return Ok(());
        };
        let key = format!("task/{}/{id}", self.from.cluster);
        self.refuse(key, nack.error).await
    }

    async fn refuse(&self, key: String, why: String) -> Result<(), Status> {
        let instance = self.from.instance.clone();
        let (task, reason) = (key.clone(), bounds::cut(&why, bounds::REASON));
        let refused = self
            .south
            .store
            .run(move |store| report::refuse(store, &instance, &key, &why));
        if refused.await.map_err(|e| store_failed(&e))? {
            tracing::info!(task, reason, "task refused");
        } else {
            tracing::warn!(
                task,
                reason,
                "refusal of a task that already runs or ended: ignored"
            );
        }
        Ok(())
    }

    async fn reported(&self, said: Report) -> Result<(), Status> {
        let arn = said.arn.clone();
        let checked = match report::check(&self.south.arns, &self.from.cluster, said) {
            Ok(checked) => checked,
            Err(why) => {
                // One bad report costs its task, not the session.
                let arn = bounds::cut(&arn, bounds::NAME);
                tracing::warn!(instance = self.from.instance, arn, why, "report refused");
                return Ok(());
            }
        };
        let from = self.from.clone();
        let taken = self
            .south
            .store
            .run(move |store| report::take(store, &from, &checked));
        match taken.await.map_err(|e| store_failed(&e))? {
            report::Outcome::Taken => Ok(()),
            report::Outcome::Final(version) => {
                self.say(Say::ReportStored(ReportStored { arn, version }))
                    .await
            }
            report::Outcome::NotOurs => {
                tracing::warn!(
                    instance = self.from.instance,
                    arn,
                    "report of a task that is not its own"
                );
                Ok(())
            }
        }
    }

    async fn asked(&self, arns: Vec<String>) -> Result<(), Status> {
        bounds::count("orphans", arns.len(), bounds::TASKS).map_err(Status::invalid_argument)?;
        let (ours, from) = (self.south.arns.clone(), self.from.clone());
        let verdict = self
            .south
            .store
            .run(move |store| report::judge(store, &ours, &from, arns));
        let verdict = verdict.await.map_err(|e| store_failed(&e))?;
        self.say(Say::OrphanVerdict(verdict)).await
    }

    /// Sends the set now, at each change, and again while the agent leaves a task unanswered.
    async fn push(
        &self,
        mut known: HashSet<Hash>,
        mut changed: watch::Receiver<u64>,
        base: u64,
    ) -> Result<(), Status> {
        if !self.south.placed.reached(base).await {
            return Err(Status::unavailable("the control plane is closing"));
        }
        loop {
            let generation = base.max(*changed.borrow_and_update());
            self.send(&mut known, generation).await?;
            loop {
                tokio::select! {
                    woken = changed.changed() => match woken {
                        Ok(()) => { sleep(DEBOUNCE).await; break; }
                        Err(_) => return Err(Status::unavailable("the control plane is closing")),
                    },
                    () = self.missing.notified() => { known.clear(); sleep(PAUSE).await; break; }
                    () = sleep(self.patience) => if self.is_unanswered() { break; },
                }
            }
        }
    }

    fn is_unanswered(&self) -> bool {
        let unanswered = self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        !unanswered.is_empty()
    }

    /// Reads and sends the set. Both sides then hold exactly the definitions it names.
    async fn send(&self, known: &mut HashSet<Hash>, generation: u64) -> Result<(), Status> {
        let keys = self.south.placed.keys(&self.from.instance);
        let (arns, instance) = (self.south.arns.clone(), self.from.instance.clone());
        let set = self
            .south
            .store
            .run(move |store| desired::read(store, &arns, &instance, &keys));
        let set = set.await.map_err(|e| store_failed(&e))?;
        for (key, why) in set.impossible {
            self.refuse(key, why).await?;
        }
        let named: HashSet<Hash> = set.definitions.keys().copied().collect();
        for (hash, body) in set.definitions {
            if !known.contains(&hash) {
                let hash = hash.to_vec();
                self.say(Say::Definition(DefinitionBody { hash, body }))
                    .await?;
            }
        }
        *known = named;
        let unanswered = set.tasks.iter().map(|task| (task.arn.clone(), generation));
        *self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = unanswered.collect();
        let chunks = parts(set.tasks);
        let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        for (part, tasks) in (0..).zip(chunks) {
            let desired = Desired {
                generation,
                store_id: self.south.store.id().to_owned(),
                part,
                parts: count,
                tasks,
            };
            self.say(Say::Desired(desired)).await?;
        }
        Ok(())
    }
}
