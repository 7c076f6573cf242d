//! One session with the control plane, from Hello to its end.
//!
//! Three loops run side by side: `listen`, which never waits for anyone, `tell` and `beat`. The session ends
//! with the first of them; nothing is lost by that, for mail and sets are levels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use longshore_engine::TaskId;
use longshore_proto::v1::from_agent::Message as Say;
use longshore_proto::v1::session_client::SessionClient;
use longshore_proto::v1::to_agent::Message as Said;
use longshore_proto::v1::{
    Ack, DefinitionBody, Desired, FromAgent, Heartbeat, Held, Hello, Nack, NackKind,
    OrphanQuestion, Task, ToAgent, Welcome,
};
use longshore_proto::{MAX_MESSAGE, OLDEST_PROTOCOL, PROTOCOL, parts, v1};
use prost::Message as _;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::dial::{PATIENCE, refusal};
use super::mail::{Mail, Outgoing, Unfit};
use super::{FromControl, Registration, Wish, tell, translate};

/// Tasks a host may be wished.
const TASKS: usize = 4096;
/// Definitions kept for a set that is under way.
const DEFINITIONS: usize = 4096;
/// Tasks in one question.
const QUESTION: usize = 1000;
/// No control plane's heartbeat is slower or faster than this.
const HEARTBEATS: (u32, u32) = (10, 300_000);

/// What outlives a session.
#[derive(Debug)]
pub(super) struct Memory {
    /// Store and generation of the last set that went to the shell.
    last_accepted: Option<(String, u64)>,
    /// The definitions that set names, by the hash of what came.
    definitions: HashMap<Vec<u8>, v1::Definition>,
}

impl Memory {
    /// At the start: what the journal remembers.
    pub(super) fn new(last_accepted: Option<(String, u64)>) -> Memory {
        Memory {
            last_accepted,
            definitions: HashMap::new(),
        }
    }
}

/// Why a session ended well.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The control plane asked for a new one.
    Reconnect,
}

/// One session's two directions.
#[derive(Debug)]
pub(super) struct Session {
    inbound: Streaming<ToAgent>,
    out: mpsc::Sender<FromAgent>,
    welcome: Welcome,
}

impl Session {
    /// Says Hello and hears Welcome.
    pub(super) async fn open(
        channel: Channel,
        registration: &Registration,
        memory: &Memory,
    ) -> Result<Session, String> {
        let (out, outbound) = mpsc::channel(16);
        let (store_id, generation) = memory.last_accepted.clone().unwrap_or_default();
        let hello = Hello {
            protocol: PROTOCOL,
            agent_version: registration.agent_version.clone(),
            store_id,
            generation,
            registration: Some(tell::registration(registration)),
            definitions: memory.definitions.keys().cloned().collect(),
        };
        say(&out, Say::Hello(hello)).await?;
        let mut client = SessionClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let opened = timeout(PATIENCE, async {
            let response = client.connect(ReceiverStream::new(outbound)).await?;
            let mut inbound = response.into_inner();
            let first = inbound.message().await?;
            Ok::<_, tonic::Status>((inbound, first))
        });
        let (inbound, first) = match opened.await {
            Err(_) => return Err(format!("no Welcome within {} s", PATIENCE.as_secs())),
            Ok(Err(status)) => return Err(refusal(&status)),
            Ok(Ok(opened)) => opened,
        };
        let Some(Said::Welcome(welcome)) = first.and_then(|m| m.message) else {
            return Err("the control plane did not begin with Welcome".into());
        };
        if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&welcome.protocol) {
            return Err(format!(
                "the control plane speaks protocol {}, this agent {OLDEST_PROTOCOL} to {PROTOCOL}: upgrade the older one",
                welcome.protocol
            ));
        }
        Ok(Session {
            inbound,
            out,
            welcome,
        })
    }

    /// What the shell is told of it.
    pub(super) fn connected(&self) -> FromControl {
        FromControl::Connected {
            instance_arn: self.welcome.instance_arn.clone(),
            cluster: self.welcome.cluster.clone(),
        }
    }

    /// Goes on until it ends.
    pub(super) async fn converse(
        self,
        mail: &Arc<Mail>,
        memory: &mut Memory,
    ) -> Result<End, String> {
        let Session {
            inbound,
            out,
            welcome,
        } = self;
        if welcome.adopt {
            memory.last_accepted = None;
            tell_held(mail, &out).await?;
        }
        mail.begin();
        let (least, most) = HEARTBEATS;
        let beat = Duration::from_millis(welcome.heartbeat_milliseconds.clamp(least, most).into());
        let age = Duration::from_millis(welcome.maximum_age_milliseconds);
        let mut ear = Ear {
            mail,
            memory,
            welcome: &welcome,
            assembly: Assembly::default(),
        };
        tokio::select! {
            ended = ear.listen(inbound, beat * 3) => ended,
            why = tell_mail(mail, &out, &welcome) => Err(why),
            why = keep_beating(&out, beat) => Err(why),
            // The control plane asks at this age; should it forget to, the session is renewed a little later.
            () = sleep(age.saturating_add(age / 4).saturating_add(beat * 3)) => Ok(End::Reconnect),
        }
    }
}

async fn say(out: &mpsc::Sender<FromAgent>, message: Say) -> Result<(), String> {
    let message = Some(message);
    let sent = out.send(FromAgent { message }).await;
    sent.map_err(|_| "the control plane has closed the session".to_owned())
}

/// Tells every task held here, so that a control plane that does not know them can adopt them.
async fn tell_held(mail: &Mail, out: &mpsc::Sender<FromAgent>) -> Result<(), String> {
    let chunks = parts(mail.specs().into_iter().map(tell::held).collect());
    let parts = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    for (part, tasks) in (0..).zip(chunks) {
        let held = Held { part, parts, tasks };
        say(out, Say::Held(held)).await?;
    }
    Ok(())
}

async fn keep_beating(out: &mpsc::Sender<FromAgent>, beat: Duration) -> String {
    for sequence in 1.. {
        sleep(beat).await;
        if let Err(why) = say(out, Say::Heartbeat(Heartbeat { sequence })).await {
            return why;
        }
    }
    unreachable!("u64 does not run out of heartbeats")
}

async fn tell_mail(mail: &Mail, out: &mpsc::Sender<FromAgent>, welcome: &Welcome) -> String {
    loop {
        let next = mail.next_outgoing().await;
        for message in messages(mail, welcome, next) {
            if let Err(why) = say(out, message).await {
                return why;
            }
        }
    }
}

fn messages(mail: &Mail, welcome: &Welcome, outgoing: Outgoing) -> Vec<Say> {
    let arn = |task: &TaskId| match mail.spec(task) {
        Some(spec) => spec.arn,
        None => arn_here(welcome, task),
    };
    match outgoing {
        Outgoing::Ack(task, generation) => vec![Say::Ack(Ack {
            arn: arn(&task),
            generation,
        })],
        Outgoing::Nack(task, generation, error) => {
            vec![nack(arn(&task), generation, NackKind::Refused, error)]
        }
        Outgoing::Unfit(unfit) => {
            let kind = match unfit.definition_missing {
                true => NackKind::DefinitionMissing,
                false => NackKind::Refused,
            };
            vec![nack(unfit.arn, unfit.generation, kind, unfit.why)]
        }
        Outgoing::Report(report) => vec![Say::Report(tell::report(*report))],
        Outgoing::Orphans(tasks) => {
            let chunks = tasks.chunks(QUESTION).map(|chunk| {
                let arns = chunk.iter().map(arn).collect();
                Say::OrphanQuestion(OrphanQuestion { arns })
            });
            chunks.collect()
        }
    }
}

/// A task's ARN made from this instance's: same region, account and cluster.
fn arn_here(welcome: &Welcome, task: &TaskId) -> String {
    let instance = &welcome.instance_arn;
    let (prefix, _) = instance
        .split_once(":container-instance/")
        .unwrap_or((instance, ""));
    format!("{prefix}:task/{}/{task}", welcome.cluster)
}

fn nack(arn: String, generation: u64, kind: NackKind, error: String) -> Say {
    Say::Nack(Nack {
        arn,
        generation,
        kind: kind.into(),
        error: error.chars().take(1024).collect(),
    })
}

/// The parts of a set that have come so far.
#[derive(Debug, Default)]
struct Assembly {
    generation: u64,
    parts: u32,
    next: u32,
    tasks: Vec<Task>,
}

impl Assembly {
    /// Takes a part; the whole set with the last one. A part out of turn drops what there was: the set
    /// comes again, because nobody acknowledges it.
    fn add(&mut self, part: Desired) -> Option<Vec<Task>> {
        if part.part == 0 {
            *self = Assembly {
                generation: part.generation,
                parts: part.parts,
                ..Assembly::default()
            };
        }
        let fits = part.generation == self.generation
            && (part.part, part.parts) == (self.next, self.parts)
            && self.tasks.len() + part.tasks.len() <= TASKS;
        if !fits {
            *self = Assembly::default();
            return None;
        }
        self.tasks.extend(part.tasks);
        self.next += 1;
        (self.next == self.parts).then(|| std::mem::take(self).tasks)
    }
}

/// What listens.
struct Ear<'a> {
    mail: &'a Arc<Mail>,
    memory: &'a mut Memory,
    welcome: &'a Welcome,
    assembly: Assembly,
}

/// Why a task of the set becomes no wish.
struct No {
    definition_missing: bool,
    why: String,
}

impl Ear<'_> {
    async fn listen(
        &mut self,
        mut inbound: Streaming<ToAgent>,
        patience: Duration,
    ) -> Result<End, String> {
        loop {
            let message = match timeout(patience, inbound.message()).await {
                Err(_) => return Err("the control plane was silent for three heartbeats".into()),
                Ok(Err(status)) => return Err(refusal(&status)),
                Ok(Ok(None)) => return Err("the control plane closed the session".into()),
                Ok(Ok(Some(message))) => message,
            };
            match message.message {
                Some(Said::Definition(body)) => self.learn(&body),
                Some(Said::Desired(part)) => self.gather(part),
                Some(Said::ReportStored(stored)) => {
                    if let Ok(task) = self.task(&stored.arn) {
                        self.mail.stored(task);
                    }
                }
                Some(Said::OrphanVerdict(verdict)) => {
                    for arn in verdict.stop.iter().take(QUESTION) {
                        if let Ok(task) = self.task(arn) {
                            self.mail.stop_orphan(task);
                        }
                    }
                }
                Some(Said::Reconnect(_)) => return Ok(End::Reconnect),
                Some(Said::HeartbeatAnswer(_)) => {}
                Some(Said::Welcome(_)) => return Err("a second Welcome came".into()),
                None => return Err("a message came that this agent's version does not know".into()),
            }
        }
    }

    fn task(&self, arn: &str) -> Result<TaskId, String> {
        translate::task_id(arn, &self.welcome.cluster)
    }

    /// Keeps a definition whose hash is right; a set that names one that is not kept asks for it again.
    fn learn(&mut self, body: &DefinitionBody) {
        let right = Sha256::digest(&body.body)[..] == body.hash[..];
        let known = &mut self.memory.definitions;
        if right
            && known.len() < DEFINITIONS
            && let Ok(definition) = v1::Definition::decode(&body.body[..])
        {
            known.insert(body.hash.clone(), definition);
        }
    }

    fn gather(&mut self, part: Desired) {
        let generation = part.generation;
        let stale = self
            .memory
            .last_accepted
            .as_ref()
            .is_some_and(|(store, last)| *store == part.store_id && generation < *last);
        if stale || part.store_id != self.welcome.store_id {
            return;
        }
        let Some(tasks) = self.assembly.add(part) else {
            return;
        };
        let (mut wishes, mut unfit) = (Vec::<Wish>::new(), Vec::new());
        let mut taken = HashSet::new();
        for task in &tasks {
            match self.wish(task) {
                Ok(wish) if taken.insert(wish.spec.id.clone()) => wishes.push(wish),
                Ok(_) => {}
                Err(No {
                    definition_missing,
                    why,
                }) => unfit.push(Unfit {
                    arn: task.arn.chars().take(512).collect(),
                    generation,
                    definition_missing,
                    why,
                }),
            }
        }
        let named: HashSet<&[u8]> = tasks.iter().map(|task| &task.definition[..]).collect();
        self.memory
            .definitions
            .retain(|hash, _| named.contains(&hash[..]));
        let store = self.welcome.store_id.clone();
        self.memory.last_accepted = Some((store.clone(), generation));
        self.mail.desired(store, generation, wishes, unfit);
    }

    /// The wish, from the spec that is held already (specs never change) or from the definition.
    fn wish(&self, task: &Task) -> Result<Wish, No> {
        let refused = |why| No {
            definition_missing: false,
            why,
        };
        let id = self.task(&task.arn).map_err(refused)?;
        let spec = match (self.mail.spec(&id), task.definition.is_empty()) {
            (Some(spec), _) => spec,
            (None, true) => {
                return Err(refused(
                    "the task is not held here, and the control plane has no definition for it"
                        .into(),
                ));
            }
            (None, false) => {
                let definition = self.memory.definitions.get(&task.definition).ok_or(No {
                    definition_missing: true,
                    why: "its definition has not come".to_owned(),
                })?;
                translate::spec(id, task, definition).map_err(refused)?
            }
        };
        let stop = task.stop.as_ref();
        Ok(Wish {
            spec,
            stop: stop.map(|reason| reason.chars().take(1024).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tell::sample;
    use super::*;

    fn part(generation: u64, part: u32, parts: u32, n: u8) -> Desired {
        Desired {
            generation,
            store_id: "s".into(),
            part,
            parts,
            tasks: vec![Task {
                arn: sample::arn(n),
                ..Default::default()
            }],
        }
    }

    #[test]
    fn a_set_is_whole_or_nothing() {
        let mut assembly = Assembly::default();
        assert!(assembly.add(part(1, 0, 2, 1)).is_none());
        assert_eq!(assembly.add(part(1, 1, 2, 2)).unwrap().len(), 2);
        // Lost, repeated and mixed parts.
        assert!(assembly.add(part(2, 1, 2, 2)).is_none());
        assert!(assembly.add(part(2, 0, 3, 1)).is_none());
        assert!(assembly.add(part(2, 2, 3, 1)).is_none());
        assert!(assembly.add(part(2, 1, 3, 1)).is_none());
        assert!(assembly.add(part(3, 0, 2, 1)).is_none());
        assert!(assembly.add(part(4, 1, 2, 1)).is_none());
        assert_eq!(assembly.add(part(5, 0, 1, 1)).unwrap().len(), 1);
        assert!(assembly.add(part(5, 0, 0, 1)).is_none());
    }

    fn welcome() -> Welcome {
        Welcome {
            instance_arn: "arn:aws:ecs:us-east-1:000000000000:container-instance/default/x".into(),
            cluster: "default".into(),
            store_id: "s".into(),
            ..Default::default()
        }
    }

    fn definition() -> DefinitionBody {
        let definition = v1::Definition {
            family: "web".into(),
            revision: 1,
            network_mode: v1::NetworkMode::None.into(),
            containers: vec![v1::Container {
                name: "main".into(),
                image: "busybox".into(),
                essential: true,
                ..Default::default()
            }],
            ..Default::default()
        };
        let body = definition.encode_to_vec();
        DefinitionBody {
            hash: Sha256::digest(&body).to_vec(),
            body,
        }
    }

    fn set(generation: u64, tasks: &[u8]) -> Desired {
        let mut set = part(generation, 0, 1, 0);
        set.tasks = tasks
            .iter()
            .map(|n| Task {
                arn: sample::arn(*n),
                definition: definition().hash,
                ..Default::default()
            })
            .collect();
        set
    }

    /// The generation and tasks of the set that waits for the shell, if one does.
    fn waiting(mail: &Mail) -> Option<(u64, usize)> {
        match mail.waiting() {
            Some(FromControl::Desired {
                generation, wishes, ..
            }) => Some((generation, wishes.len())),
            _ => None,
        }
    }

    #[test]
    fn lost_repeated_late_and_foreign_sets_do_no_harm() {
        let (mail, welcome) = (Arc::new(Mail::new(&[])), welcome());
        let mut memory = Memory::new(Some(("s".into(), 5)));
        let mut ear = Ear {
            mail: &mail,
            memory: &mut memory,
            welcome: &welcome,
            assembly: Assembly::default(),
        };
        ear.learn(&definition());
        ear.gather(set(4, &[]));
        assert_eq!(waiting(&mail), None, "older than what is on record");
        ear.gather(set(7, &[1, 2]));
        ear.gather(set(7, &[1, 2]));
        assert_eq!(waiting(&mail), Some((7, 2)));
        ear.gather(set(6, &[1]));
        assert_eq!(waiting(&mail), None, "out of order");
        let mut foreign = set(9, &[]);
        foreign.store_id = "other".into();
        ear.gather(foreign);
        assert_eq!(waiting(&mail), None, "of another store");
        // 8 was lost.
        ear.gather(set(9, &[2, 3, 3]));
        assert_eq!(waiting(&mail), Some((9, 2)));
        assert_eq!(memory.last_accepted, Some(("s".into(), 9)));
    }

    #[tokio::test]
    async fn a_task_without_its_definition_asks_for_it_and_a_wrong_hash_is_not_kept() {
        let (mail, welcome) = (Arc::new(Mail::new(&[])), welcome());
        let mut memory = Memory::new(None);
        let mut ear = Ear {
            mail: &mail,
            memory: &mut memory,
            welcome: &welcome,
            assembly: Assembly::default(),
        };
        let mut forged = definition();
        forged.body.push(0);
        ear.learn(&forged);
        ear.gather(set(1, &[1]));
        assert_eq!(waiting(&mail), Some((1, 0)));
        let Outgoing::Unfit(unfit) = mail.next_outgoing().await else {
            panic!("no refusal")
        };
        assert!(unfit.definition_missing);
        ear.learn(&definition());
        ear.gather(set(1, &[1]));
        assert_eq!(waiting(&mail), Some((1, 1)));
    }

    #[test]
    fn a_tasks_arn_is_made_from_the_instances() {
        assert_eq!(arn_here(&welcome(), &sample::id(1)), sample::arn(1));
    }
}
