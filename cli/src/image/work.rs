//! Pulling and loading, wherever the store is: progress as it comes, then the images.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::Body;
use longshore_image::{Image, LayerProgress, Progress};
use serde_json::{Value, json};

use super::bars::Bars;
use crate::ps::text;
use crate::{socket, telling};

/// The longest line that the agent sends.
const LONGEST_LINE: usize = 16 << 20;

/// POSTs to the agent and follows its JSON lines to the last; the images.
pub(super) async fn at_agent<B>(agent: &Path, path: &str, body: B, bars: Bars) -> Result<Value>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let answer = socket::send(agent, Method::POST, path, body).await?;
    let mut body = answer.into_body();
    let mut lines = Lines {
        bars,
        begun: Vec::new(),
    };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| anyhow!("follow the agent: {e}; it may have ended"))?;
        if let Ok(bytes) = frame.into_data()
            && let Some(images) = lines.take(&bytes)?
        {
            return Ok(images);
        }
    }
    bail!("follow the agent: it ended before the work did; ask again")
}

/// No body.
pub(super) fn no_body() -> Full<Bytes> {
    Full::new(Bytes::new())
}

struct Lines {
    bars: Bars,
    /// The beginning of a line whose end is still to come.
    begun: Vec<u8>,
}

impl Lines {
    /// Shows what has come; the images once they are told.
    fn take(&mut self, piece: &[u8]) -> Result<Option<Value>> {
        self.begun.extend_from_slice(piece);
        let whole = self.begun.iter().rposition(|byte| *byte == b'\n');
        let rest = self.begun.split_off(whole.map_or(0, |end| end + 1));
        if rest.len() > LONGEST_LINE {
            bail!("follow the agent: its line has no end");
        }
        let whole = std::mem::replace(&mut self.begun, rest);
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            let mut line: Value = serde_json::from_slice(line).map_err(|_| {
                anyhow!("follow the agent: its answer is not of this version; restart the agent")
            })?;
            if let Some(error) = line["Error"].as_str() {
                bail!("{error}");
            }
            if line["Images"].is_array() {
                return Ok(Some(line["Images"].take()));
            }
            if let Some(progress) = progress(&line) {
                self.bars.take(progress);
            }
        }
        Ok(None)
    }
}

fn progress(line: &Value) -> Option<Progress> {
    let number = |value: &Value| value.as_u64();
    let layer = &line["Layer"];
    if layer.is_object() {
        return Some(Progress::Layer(LayerProgress {
            digest: text(&layer["Digest"]).into(),
            bytes: number(&layer["Bytes"])?,
            of: number(&layer["Of"])?,
            done: layer["Done"] == true,
        }));
    }
    Some(Progress::Fetched {
        bytes: number(&line["Bytes"])?,
        of: number(&line["Of"])?,
    })
}

/// Bars that several threads tell.
pub(super) struct Shared(Mutex<Bars>);

impl Shared {
    pub(super) fn new(bars: Bars) -> Shared {
        Shared(Mutex::new(bars))
    }

    pub(super) fn take(&self, progress: Progress) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(progress);
    }
}

/// Images as the agent tells them.
pub(super) fn told(images: &[Image]) -> Value {
    let image = |image: &Image| json!({"Reference": image.reference, "Digest": image.manifest_digest, "Layers": image.layers.len()});
    images.iter().map(image).collect()
}

/// The result on standard output: a line for each image, or all as JSON.
pub(super) fn print(json: bool, images: &Value) -> Result<()> {
    if json {
        return telling::print(&format!("{images:#}\n"));
    }
    for image in images.as_array().into_iter().flatten() {
        let (name, digest) = (text(&image["Reference"]), text(&image["Digest"]));
        telling::print(&format!("{name} {digest}\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_in_any_pieces_and_the_last_one_counts() {
        let good = b"{\"Layer\":{\"Digest\":\"sha256:a\",\"Bytes\":1,\"Of\":2,\"Done\":false}}\n{\"Bytes\":1,\"Of\":0}\n\
            {\"Images\":[{\"Reference\":\"a\"}]}\n";
        for size in [1, 10, good.len()] {
            let mut lines = Lines {
                bars: Bars::silent(),
                begun: Vec::new(),
            };
            let mut last = None;
            for piece in good.chunks(size) {
                assert_eq!(last, None);
                last = lines.take(piece).unwrap();
            }
            assert_eq!(last, Some(json!([{"Reference": "a"}])));
        }
        let mut lines = Lines {
            bars: Bars::silent(),
            begun: Vec::new(),
        };
        let error = lines
            .take(b"{\"Error\":\"fetch layer x: y\"}\n")
            .unwrap_err();
        assert_eq!(error.to_string(), "fetch layer x: y");
        assert!(
            lines
                .take(b"plain\n")
                .unwrap_err()
                .to_string()
                .contains("restart the agent")
        );
    }
}
