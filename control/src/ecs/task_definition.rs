//! RegisterTaskDefinition, DescribeTaskDefinition, ListTaskDefinitions, ListTaskDefinitionFamilies,
//! DeregisterTaskDefinition.

use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::{Value, json};

use super::page::Paging;
use super::{Api, Error, input};
use crate::definition::{Document, check, check_name, check_tags, complete, is_name, normalise};
use crate::model::{self, Definition, Family, Stored, Tag};
use crate::store::{Compare, Outcome, StoreError};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Named {
    task_definition: Option<String>,
    include: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct List {
    family_prefix: Option<String>,
    status: Option<String>,
    sort: Option<String>,
}

/// What a caller called a task definition.
struct Reference<'a> {
    family: &'a str,
    revision: Option<u32>,
}

fn family_key(family: &str) -> String {
    format!("family/{family}")
}

fn key(family: &str, revision: u32) -> String {
    format!("definition/{family}/{revision:010}")
}

impl Api {
    pub(super) fn register_task_definition(&self, body: &Value) -> Result<Value, Error> {
        let tags = input::read::<input::Tags>(body)?.tags;
        let mut document: Document = input::read(body)?;
        normalise(&mut document)?;
        check(&document)?;
        check_tags(&tags)?;
        complete(&mut document);
        let definition = self.add_revision(&document, tags)?;
        let shape = self.arns.task_definition_shape(&definition, &document);
        Ok(with_tags(shape, &definition.tags))
    }

    fn add_revision(&self, document: &Document, tags: Vec<Tag>) -> Result<Definition, Error> {
        let at = family_key(&document.family);
        for _ in 0..model::ATTEMPTS {
            let found = model::read::<Family>(self.store(), &at)?;
            let (family, compare) = match found {
                Some(found) => (found.record, Compare::Revision(at.clone(), found.revision)),
                None => (
                    self.family_of_revisions(&document.family)?,
                    Compare::Absent(at.clone()),
                ),
            };
            let revision = family.last_revision.checked_add(1).ok_or_else(|| {
                Error::client("The family has no revision numbers left; use another family.")
            })?;
            let family = Family {
                last_revision: revision,
                latest_active: Some(revision),
            };
            let definition = Definition {
                family: document.family.clone(),
                revision,
                active: true,
                registered_at: crate::now(),
                registered_by: self.arns.principal(),
                deregistered_at: None,
                document: json!(document),
                tags: tags.clone(),
            };
            let key = key(&document.family, revision);
            let compares = [compare, Compare::Absent(key.clone())];
            let writes = [
                model::put(at.clone(), &family),
                model::put(key, &definition),
            ];
            if let Outcome::Committed(_) = self.store().transact(&compares, &writes)? {
                return Ok(definition);
            }
        }
        Err(model::contended(&at).into())
    }

    /// The family's record, told from its revisions: nothing yet, unless the record was lost.
    fn family_of_revisions(&self, family: &str) -> Result<Family, StoreError> {
        let prefix = format!("definition/{family}/");
        let all = model::all::<Definition>(self.store(), &prefix)?;
        let revisions = all.iter().map(|found| found.record.revision);
        Ok(Family {
            last_revision: revisions.max().unwrap_or(0),
            latest_active: None,
        })
    }

    pub(super) fn describe_task_definition(&self, body: &Value) -> Result<Value, Error> {
        let named: Named = input::read(body)?;
        let include_tags = input::includes(&named.include, "TAGS", &["TAGS"])?;
        let missing = || Error::client("Unable to describe task definition.");
        let text = named.task_definition.unwrap_or_default();
        let found = self.find_definition(&text)?.ok_or_else(missing)?;
        let definition = found.record;
        let document = document(&definition)?;
        let shape = self.arns.task_definition_shape(&definition, &document);
        let tags = if include_tags {
            &definition.tags[..]
        } else {
            &[]
        };
        Ok(with_tags(shape, tags))
    }

    pub(super) fn deregister_task_definition(&self, body: &Value) -> Result<Value, Error> {
        let named: Named = input::read(body)?;
        let text = named.task_definition.unwrap_or_default();
        let reference = self.reference(&text)?;
        if reference.as_ref().is_some_and(|r| r.revision.is_none()) {
            return Err(Error::client("Revision is missing."));
        }
        for _ in 0..model::ATTEMPTS {
            let missing = || Error::client("The specified task definition does not exist.");
            let found = self.find_definition(&text)?.ok_or_else(missing)?;
            if let Some(definition) = self.deactivate(found)? {
                let document = document(&definition)?;
                let shape = self.arns.task_definition_shape(&definition, &document);
                return Ok(json!({"taskDefinition": shape}));
            }
        }
        Err(model::contended(&text).into())
    }

    /// Makes a revision INACTIVE, and the newest ACTIVE one before it the family's; none: lost a race.
    fn deactivate(&self, found: Stored<Definition>) -> Result<Option<Definition>, Error> {
        let mut definition = found.record;
        if !definition.active {
            return Ok(Some(definition));
        }
        let family_at = family_key(&definition.family);
        let family = model::read::<Family>(self.store(), &family_at)?;
        let at = key(&definition.family, definition.revision);
        let mut compares = vec![Compare::Revision(at.clone(), found.revision)];
        definition.active = false;
        definition.deregistered_at = Some(crate::now());
        let mut writes = vec![model::put(at, &definition)];
        if let Some(family) = family {
            compares.push(Compare::Revision(family_at.clone(), family.revision));
            let latest_active = self.latest_active(&definition.family, definition.revision)?;
            let changed = Family {
                latest_active,
                ..family.record
            };
            writes.push(model::put(family_at, &changed));
        }
        match self.store().transact(&compares, &writes)? {
            Outcome::Committed(_) => Ok(Some(definition)),
            Outcome::Conflict => Ok(None),
        }
    }

    fn latest_active(&self, family: &str, without: u32) -> Result<Option<u32>, StoreError> {
        let prefix = format!("definition/{family}/");
        let all = model::all::<Definition>(self.store(), &prefix)?;
        let active = all.iter().filter(|found| found.record.active);
        let others = active.map(|found| found.record.revision);
        Ok(others.filter(|revision| *revision != without).max())
    }

    pub(super) fn list_task_definitions(&self, body: &Value) -> Result<Value, Error> {
        let list: List = input::read(body)?;
        let paging: Paging = input::read(body)?;
        let active = match list.status.as_deref().unwrap_or("ACTIVE") {
            "ACTIVE" => Some(true),
            "INACTIVE" => Some(false),
            "DELETE_IN_PROGRESS" => None,
            other => return Err(bad_word("status", other)),
        };
        let descending = match list.sort.as_deref().unwrap_or("ASC") {
            "ASC" => false,
            "DESC" => true,
            other => return Err(bad_word("sort", other)),
        };
        let prefix = match &list.family_prefix {
            Some(family) => {
                check_name("Family", family)?;
                format!("definition/{family}/")
            }
            None => "definition/".to_owned(),
        };
        let (mut page, after) = (paging.page()?, paging.after(&prefix)?);
        let mut found: Vec<(String, String)> = Vec::new();
        model::scan(
            self.store(),
            &prefix,
            None,
            |key, definition: Stored<Definition>| {
                let definition = definition.record;
                if Some(definition.active) == active {
                    let arn = self
                        .arns
                        .task_definition(&definition.family, definition.revision);
                    found.push((key, arn));
                }
                ControlFlow::Continue(())
            },
        )?;
        if descending {
            found.reverse();
        }
        let behind = |key: &String| match &after {
            None => true,
            Some(after) if descending => key < after,
            Some(after) => key > after,
        };
        for (key, arn) in found.into_iter().filter(|(key, _)| behind(key)) {
            if !page.push(key, arn) {
                break;
            }
        }
        Ok(page.answer("taskDefinitionArns"))
    }

    pub(super) fn list_task_definition_families(&self, body: &Value) -> Result<Value, Error> {
        let list: List = input::read(body)?;
        let paging: Paging = input::read(body)?;
        let wanted = match list.status.as_deref().unwrap_or("ALL") {
            "ALL" => None,
            "ACTIVE" => Some(true),
            "INACTIVE" => Some(false),
            other => return Err(bad_word("status", other)),
        };
        let prefix = family_key(list.family_prefix.as_deref().unwrap_or_default());
        let (mut page, after) = (paging.page()?, paging.after(&prefix)?);
        model::scan(
            self.store(),
            &prefix,
            after.as_deref(),
            |key, family: Stored<Family>| {
                let active = family.record.latest_active.is_some();
                let name = key["family/".len()..].to_owned();
                let left_out = wanted.is_some_and(|wanted| wanted != active);
                if left_out || page.push(key, name) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
        Ok(page.answer("families"))
    }

    /// The revision that a caller means: a family alone means its newest ACTIVE one.
    pub(super) fn find_definition(&self, text: &str) -> Result<Option<Stored<Definition>>, Error> {
        let Some(reference) = self.reference(text)? else {
            return Ok(None);
        };
        let family = reference.family;
        let revision = match reference.revision {
            Some(revision) => Some(revision),
            None => model::read::<Family>(self.store(), &family_key(family))?
                .and_then(|family| family.record.latest_active),
        };
        match revision {
            Some(revision) => Ok(model::read(self.store(), &key(family, revision))?),
            None => Ok(None),
        }
    }

    /// `family`, `family:revision`, or an ARN of this place; none: an ARN of another, or no name at all.
    fn reference<'a>(&self, text: &'a str) -> Result<Option<Reference<'a>>, Error> {
        let Some(reference) = self.arns.read("task-definition", text) else {
            return Ok(None);
        };
        let (family, revision) = match reference.name.split_once(':') {
            None => (reference.name, None),
            Some((family, number)) => {
                let revision = number.parse::<u32>().ok().filter(|n| *n > 0);
                let revision = revision.ok_or_else(|| {
                    Error::client(format!("Invalid revision number. Number: {number}"))
                })?;
                (family, Some(revision))
            }
        };
        let whole = is_name(family) && reference.cluster.is_none();
        Ok(whole.then_some(Reference { family, revision }))
    }
}

/// The typed view of a stored definition.
pub(super) fn document(definition: &Definition) -> Result<Document, Error> {
    serde_json::from_value(definition.document.clone()).map_err(|_| {
        let (family, revision) = (&definition.family, definition.revision);
        tracing::error!(%family, revision, "a stored task definition cannot be read");
        Error::new(
            "ServerException",
            format!("Task definition {family}:{revision} cannot be read; register it again."),
        )
    })
}

fn with_tags(shape: Value, tags: &[Tag]) -> Value {
    match tags {
        [] => json!({"taskDefinition": shape}),
        tags => json!({"taskDefinition": shape, "tags": tags}),
    }
}

fn bad_word(member: &str, word: &str) -> Error {
    Error::client(format!("Invalid {member} '{word}'."))
}
