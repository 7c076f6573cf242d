//! An answer that tells how far the work is while it goes on: JSON lines, the last of which is its end.
//!
//! Levels, not edges: each line says how far one layer is now. A client that reads slowly misses some and nothing else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use longshore_image::{Image, ImageError, LayerProgress, Progress};
use serde_json::{Value, json};

use super::super::{Answer, with_body};

/// How often the client is told, at most.
const PAUSE: Duration = Duration::from_millis(100);

/// What the work told last.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<News>);

#[derive(Debug, Default)]
struct News {
    /// The number is its place: layers are told in the order in which they were heard of.
    layers: BTreeMap<Arc<str>, (usize, LayerProgress)>,
    changed: BTreeMap<usize, Arc<str>>,
    bytes: Option<(u64, u64)>,
}

impl Told {
    pub(super) fn take(&self, progress: Progress) {
        let mut news = self.news();
        match progress {
            Progress::Started => {}
            Progress::Fetched { bytes, of } => news.bytes = Some((bytes, of)),
            Progress::Layer(layer) => {
                let next = news.layers.len();
                let digest = Arc::clone(&layer.digest);
                let place = news.layers.get(&digest).map_or(next, |(place, _)| *place);
                news.layers.insert(Arc::clone(&digest), (place, layer));
                news.changed.insert(place, digest);
            }
        }
    }

    /// What is new since the last call, as lines.
    fn lines(&self) -> String {
        let mut news = self.news();
        let changed = std::mem::take(&mut news.changed);
        let layers = changed
            .values()
            .filter_map(|digest| news.layers.get(digest));
        let mut text: String = layers.map(|(_, layer)| line(&told(layer))).collect();
        if let Some((bytes, of)) = news.bytes.take() {
            text.push_str(&line(&json!({"Bytes": bytes, "Of": of})));
        }
        text
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(layer: &LayerProgress) -> Value {
    json!({"Layer": {"Digest": *layer.digest, "Bytes": layer.bytes, "Of": layer.of, "Done": layer.done}})
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

type Done = Result<Vec<Image>, ImageError>;
type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// The answer to work that begins when it is read. Dropping the answer drops the work.
pub(super) fn answer(told: Arc<Told>, work: impl Future<Output = Done> + Send + 'static) -> Answer {
    let work: Option<Work> = Some(Box::pin(work));
    let pieces = stream::unfold((told, work), |(told, work)| async move {
        let (piece, work) = next(&told, work?).await;
        Some((
            Ok::<_, Infallible>(Frame::data(Bytes::from(piece))),
            (told, work),
        ))
    });
    let body = StreamBody::new(pieces).boxed_unsync();
    with_body(StatusCode::OK, "application/jsonl", body)
}

/// The next lines, and the work if there is more to come.
async fn next(told: &Told, mut work: Work) -> (String, Option<Work>) {
    loop {
        tokio::select! {
            biased;
            done = &mut work => return (told.lines() + &line(&last(done)), None),
            () = tokio::time::sleep(PAUSE) => {}
        }
        let lines = told.lines();
        if !lines.is_empty() {
            return (lines, Some(work));
        }
    }
}

fn last(done: Done) -> Value {
    let image = |image: Image| json!({"Reference": image.reference, "Digest": image.manifest_digest, "Layers": image.layers.len()});
    match done {
        Ok(images) => json!({"Images": images.into_iter().map(image).collect::<Vec<_>>()}),
        Err(error) => json!({"Error": error.to_string()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(digest: &str, bytes: u64, done: bool) -> Progress {
        Progress::Layer(LayerProgress {
            digest: digest.into(),
            bytes,
            of: 10,
            done,
        })
    }

    #[test]
    fn a_layer_is_told_as_it_is_and_not_again() {
        let told = Told::default();
        for progress in [
            layer("b", 0, false),
            layer("a", 0, false),
            layer("b", 7, false),
        ] {
            told.take(progress);
        }
        let lines = told.lines();
        let bytes = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            (
                line["Layer"]["Digest"].clone(),
                line["Layer"]["Bytes"].clone(),
            )
        };
        let lines: Vec<_> = lines.lines().map(bytes).collect();
        assert_eq!(lines, [(json!("b"), json!(7)), (json!("a"), json!(0))]);
        assert_eq!(told.lines(), "");
        told.take(layer("a", 10, true));
        assert!(told.lines().contains("\"Done\":true"));
    }
}
