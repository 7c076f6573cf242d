//! A host's record: entered when it joins, brought up to date by each Hello, marked when it comes and goes.

use longshore_proto::v1::Registration;
use tonic::Status;

use super::bounds;
use super::identity::{Identity, Peer};
use crate::model::{self, Instance, Resources};
use crate::store::{Compare, Outcome, Store, StoreError};

/// What a host says of itself, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Facts {
    pub(super) total: Resources,
    pub(super) attributes: Vec<(String, Option<String>)>,
    pub(super) agent_version: String,
    pub(super) host_name: String,
}

/// Checks a registration; the error names the field.
pub(super) fn facts(registration: &Registration, agent_version: &str) -> Result<Facts, String> {
    bounds::count(
        "attributes",
        registration.attributes.len(),
        bounds::ATTRIBUTES,
    )?;
    let mut attributes = Vec::new();
    for attribute in &registration.attributes {
        bounds::name("attributes.name", &attribute.name)?;
        let value = attribute.value.as_deref();
        attributes.push((
            attribute.name.clone(),
            value.map(|v| bounds::cut(v, bounds::NAME)),
        ));
    }
    Ok(Facts {
        total: Resources {
            cpu: registration.cpu,
            memory: registration.memory,
            ports: bounds::ports("ports", &registration.ports)?,
            ports_udp: bounds::ports("ports_udp", &registration.ports_udp)?,
        },
        attributes,
        agent_version: bounds::cut(agent_version, bounds::NAME),
        host_name: bounds::cut(&registration.host_name, bounds::NAME),
    })
}

/// What became of a Hello.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// On record, at this store revision.
    Entered(u64),
    /// There is no such instance, or it belongs to another key.
    Gone,
}

/// Writes what the Hello says and marks the instance connected. An instance that is not on record is entered anew if
/// `foreign`: its last set came from another store than this.
pub(super) fn enter(
    store: &dyn Store,
    peer: &Peer,
    facts: &Facts,
    foreign: bool,
) -> Result<Entry, StoreError> {
    let key = peer.identity.key();
    loop {
        let found = model::read::<Instance>(store, &key)?;
        let (compare, old) = match found {
            Some(found) if found.record.key_hash == peer.key_hash => (
                Compare::Revision(key.clone(), found.revision),
                Some(found.record),
            ),
            None if foreign => (Compare::Absent(key.clone()), None),
            _ => return Ok(Entry::Gone),
        };
        let record = Instance {
            id: peer.identity.instance.clone(),
            cluster: peer.identity.cluster.clone(),
            connected: true,
            registered_at: old.as_ref().map_or_else(crate::now, |o| o.registered_at),
            total: facts.total.clone(),
            attributes: facts.attributes.clone(),
            agent_version: facts.agent_version.clone(),
            host_name: facts.host_name.clone(),
            key_hash: peer.key_hash.clone(),
            version: old.map_or(1, |o| o.version + 1),
        };
        if let Outcome::Committed(revision) =
            store.transact(&[compare], &[model::put(key.clone(), &record)])?
        {
            return Ok(Entry::Entered(revision));
        }
    }
}

/// The instance's session is over.
pub(super) fn disconnect(store: &dyn Store, key: &str) -> Result<(), StoreError> {
    model::update::<Instance, ()>(store, key, |instance| {
        if instance.connected {
            instance.connected = false;
            instance.version += 1;
        }
    })?;
    Ok(())
}

/// A control plane that has just started has no session with anyone.
pub(super) fn disconnect_all(store: &dyn Store) -> Result<(), StoreError> {
    const PAGE: usize = 256;
    let mut after: Option<String> = None;
    loop {
        let page = store.range("instance/", after.as_deref(), PAGE)?;
        for (key, _) in &page {
            disconnect(store, key)?;
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => after = Some(key.clone()),
            _ => return Ok(()),
        }
    }
}

/// The key hash on record.
pub(super) fn key_hash(store: &dyn Store, key: &str) -> Result<Option<String>, StoreError> {
    Ok(model::read::<Instance>(store, key)?.map(|found| found.record.key_hash))
}

/// The refusal of a host that is not, or no longer, on record.
pub(super) fn gone(identity: &Identity) -> Status {
    Status::permission_denied(format!(
        "instance {} of cluster {:?} is not (or no longer) registered here: remove the host's identity \
         directory and join again with a new token",
        identity.instance, identity.cluster
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::south::fixture::{self, INSTANCE, store};
    use longshore_proto::v1::Attribute;

    fn peer(key_hash: &str) -> Peer {
        Peer {
            identity: Identity {
                cluster: "default".into(),
                instance: INSTANCE.into(),
            },
            public_key: vec![],
            key_hash: key_hash.into(),
            expired: false,
        }
    }

    fn hello(cpu: u32) -> Facts {
        let registration = Registration {
            cpu,
            memory: 512,
            attributes: vec![Attribute {
                name: "os".into(),
                value: Some("linux".into()),
            }],
            ..Default::default()
        };
        facts(&registration, "1.2.3").unwrap()
    }

    #[test]
    fn a_hello_updates_totals_and_marks_the_instance_connected() {
        let (_directory, store) = store();
        fixture::instance(&store);
        for cpu in [1024, 2048] {
            enter(&store, &peer("aa"), &hello(cpu), false).unwrap();
        }
        let key = peer("aa").identity.key();
        let record = model::read::<Instance>(&store, &key)
            .unwrap()
            .unwrap()
            .record;
        assert!(record.connected);
        assert_eq!((record.total.cpu, record.registered_at), (2048, 1));
        disconnect_all(&store).unwrap();
        let record = model::read::<Instance>(&store, &key)
            .unwrap()
            .unwrap()
            .record;
        assert!(!record.connected);
    }

    #[test]
    fn another_key_is_gone_and_an_unknown_instance_enters_only_from_another_store() {
        let (_directory, store) = store();
        assert_eq!(
            enter(&store, &peer("aa"), &hello(1), false).unwrap(),
            Entry::Gone
        );
        assert!(matches!(
            enter(&store, &peer("aa"), &hello(1), true).unwrap(),
            Entry::Entered(_)
        ));
        assert_eq!(
            enter(&store, &peer("bb"), &hello(1), true).unwrap(),
            Entry::Gone
        );
    }

    #[test]
    fn a_registration_out_of_bounds_is_refused_by_field() {
        let mut registration = Registration {
            ports: vec![22, 0],
            ..Default::default()
        };
        assert!(facts(&registration, "1").unwrap_err().starts_with("ports"));
        registration.ports.clear();
        registration.attributes = vec![Attribute::default(); bounds::ATTRIBUTES + 1];
        let error = facts(&registration, "1").unwrap_err();
        assert!(error.starts_with("attributes"), "{error}");
    }
}
