//! StopTask: writes down that the task shall stop. Its agent stops it and reports when it has.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Api, Error, input};
use crate::model::{self, Desired, Millis, StopCode, Task};

/// `stoppedReason` where the caller gave none.
const REASON: &str = "Task stopped by user";

/// ECS's limit for `reason`.
const LONGEST_REASON: usize = 255;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stop {
    cluster: Option<String>,
    task: Option<String>,
    reason: Option<String>,
}

impl Api {
    pub(super) fn stop_task(&self, body: &Value) -> Result<Value, Error> {
        let stop: Stop = input::read(body)?;
        let cluster = self.cluster(stop.cluster.as_deref())?.record.name;
        let missing = || Error::parameter("The referenced task was not found.");
        let text = stop.task.unwrap_or_default();
        let id = self.task_id(&cluster, &text)?.ok_or_else(missing)?;
        let reason = stop.reason.filter(|reason| !reason.is_empty());
        let reason = reason.unwrap_or_else(|| REASON.to_owned());
        if reason.chars().count() > LONGEST_REASON {
            return Err(Error::parameter(format!(
                "reason is longer than {LONGEST_REASON} characters."
            )));
        }
        let now = crate::now();
        let key = super::task::key(&cluster, &id);
        let stopped = model::update(self.store(), &key, |task: &mut Task| {
            want_stopped(task, &reason, now);
            task.clone()
        })?;
        let task = stopped.ok_or_else(missing)?;
        Ok(json!({"task": self.task_with_tags(&task)?}))
    }
}

/// Whoever asks first gives the reason; a task that stops or has stopped stays as it is.
fn want_stopped(task: &mut Task, reason: &str, now: Millis) {
    if task.desired_now() == Desired::Stopped {
        return;
    }
    task.desired = Desired::Stopped;
    task.stop_code = Some(StopCode::UserInitiated);
    task.stopped_reason = Some(reason.to_owned());
    task.stopping_at = Some(now);
    task.version += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Status, samples};

    #[test]
    fn the_first_stop_gives_the_reason_and_later_ones_change_nothing() {
        let mut task = samples::task("default", "t", "i");
        want_stopped(&mut task, "first", 5);
        let once = task.clone();
        assert_eq!(once.stop_code, Some(StopCode::UserInitiated));
        assert_eq!((once.stopping_at, once.version), (Some(5), 2));
        want_stopped(&mut task, "second", 6);
        assert_eq!(task, once);
    }

    #[test]
    fn a_task_that_ended_by_itself_keeps_its_own_reason() {
        let mut task = samples::task("default", "t", "i");
        task.status = Status::Stopped;
        task.stop_code = Some(StopCode::EssentialContainerExited);
        let ended = task.clone();
        want_stopped(&mut task, "late", 5);
        assert_eq!(task, ended);
    }
}
