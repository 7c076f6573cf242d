//! The set a host shall have, read from the store and put in the wire's words.

use std::collections::{BTreeMap, HashMap, HashSet};

use longshore_proto::v1;
use prost::Message as _;
use sha2::{Digest, Sha256};

use super::identity::Arns;
use super::translate::{self, Overrides};
use crate::model::{self, Definition, Desired, Status, Task};
use crate::store::{Store, StoreError};

/// The hash of an encoded definition.
pub(super) type Hash = [u8; 32];

/// What to send.
#[derive(Debug, Default)]
pub(super) struct Set {
    /// Encoded definitions that the tasks name.
    pub(super) definitions: BTreeMap<Hash, Vec<u8>>,
    /// The tasks.
    pub(super) tasks: Vec<v1::Task>,
    /// Tasks that cannot be put in the wire's words: (key, why). No agent ever saw them.
    pub(super) impossible: Vec<(String, String)>,
}

/// Reads the tasks at `keys`; those that are STOPPED or gone by now are left out.
pub(super) fn read(
    store: &dyn Store,
    arns: &Arns,
    instance: &str,
    keys: &[String],
) -> Result<Set, StoreError> {
    let mut set = Set::default();
    let mut known = HashMap::new();
    for key in keys {
        let Some(found) = model::read::<Task>(store, key)? else {
            continue;
        };
        let task = found.record;
        if task.status == Status::Stopped || task.instance != instance {
            continue;
        }
        let overrides = match translate::overrides(&task.overrides) {
            Ok(overrides) => overrides,
            Err(why) => {
                set.impossible.push((key.clone(), why));
                continue;
            }
        };
        let storage = overrides.ephemeral_storage;
        let named = (task.family.clone(), task.revision, storage);
        if !known.contains_key(&named) {
            known.insert(named.clone(), encoded(store, &task, storage)?);
        }
        match wish(arns, &task, overrides, &known[&named]) {
            Ok(wish) => set.tasks.push(wish),
            Err(why) => set.impossible.push((key.clone(), why)),
        }
    }
    let named: HashSet<&[u8]> = set.tasks.iter().map(|task| &task.definition[..]).collect();
    for body in known.into_values().flatten().flatten() {
        let hash = Sha256::digest(&body).into();
        if named.contains(&hash as &[u8]) {
            set.definitions.insert(hash, body);
        }
    }
    Ok(set)
}

/// The task's definition, encoded. None: not in this store (the task was adopted). Err: it cannot be
/// said on this wire.
type Encoded = Result<Option<Vec<u8>>, String>;

fn encoded(
    store: &dyn Store,
    task: &Task,
    own_storage: Option<u64>,
) -> Result<Encoded, StoreError> {
    let key = format!("definition/{}/{:010}", task.family, task.revision);
    let Some(found) = model::read::<Definition>(store, &key)? else {
        return Ok(Ok(None));
    };
    let document = &found.record.document;
    let made = translate::definition(&task.family, task.revision, document, own_storage);
    Ok(made.map(|definition| Some(definition.encode_to_vec())))
}

fn wish(
    arns: &Arns,
    task: &Task,
    overrides: Overrides,
    encoded: &Encoded,
) -> Result<v1::Task, String> {
    let definition = match encoded {
        Ok(Some(body)) => Sha256::digest(body).to_vec(),
        Ok(None) => Vec::new(),
        Err(why) => return Err(why.clone()),
    };
    let stop =
        (task.desired == Desired::Stopped).then(|| task.stopped_reason.clone().unwrap_or_default());
    Ok(v1::Task {
        arn: arns.task(&task.cluster, &task.id),
        definition,
        cpu: overrides.cpu,
        memory: overrides.memory,
        overrides: overrides.containers,
        stop,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::south::fixture::{self, INSTANCE, document, keep, store, task};

    fn arns() -> Arns {
        Arns {
            region: "us-east-1".into(),
            account: "000000000000".into(),
        }
    }

    #[test]
    fn the_set_has_each_definition_once_and_no_stopped_task() {
        let (_directory, store) = store();
        fixture::definition(&store, document());
        let mut stopped = task(3);
        stopped.status = Status::Stopped;
        let mut stopping = task(2);
        stopping.desired = Desired::Stopped;
        stopping.stopped_reason = Some("enough".into());
        let mut elsewhere = task(4);
        elsewhere.instance = fixture::id(99);
        for task in [&task(1), &stopping, &stopped, &elsewhere] {
            keep(&store, task);
        }
        let keys: Vec<String> = (1..6)
            .map(|n| format!("task/default/{}", fixture::id(n)))
            .collect();
        let set = read(&store, &arns(), INSTANCE, &keys).unwrap();
        assert_eq!(set.tasks.len(), 2);
        assert_eq!(set.tasks[1].stop.as_deref(), Some("enough"));
        assert_eq!(set.definitions.len(), 1);
        let (hash, body) = set.definitions.first_key_value().unwrap();
        assert_eq!(&set.tasks[0].definition[..], hash);
        let decoded = v1::Definition::decode(&body[..]).unwrap();
        assert_eq!(decoded.containers[0].name, "main");
    }

    #[test]
    fn a_bad_definition_costs_its_task_and_a_missing_one_says_go_on() {
        let (_directory, store) = store();
        let mut bad = document();
        bad["containerDefinitions"][0]["secrets"] = serde_json::json!([{"name": "x"}]);
        fixture::definition(&store, bad);
        let mut adopted = task(2);
        adopted.revision = 7;
        keep(&store, &task(1));
        keep(&store, &adopted);
        let keys: Vec<String> = (1..3)
            .map(|n| format!("task/default/{}", fixture::id(n)))
            .collect();
        let set = read(&store, &arns(), INSTANCE, &keys).unwrap();
        assert_eq!(set.impossible[0].0, keys[0]);
        assert!(set.impossible[0].1.contains("secrets"));
        assert_eq!(set.tasks.len(), 1);
        assert!(set.tasks[0].definition.is_empty());
    }
}
