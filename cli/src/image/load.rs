//! `longshore image load`.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use longshore_image::{Load as Wanted, Origin, Progress, Registries};
use serde_json::Value;
use tokio::sync::mpsc;

use super::bars::Bars;
use super::reach::{self, Reach, Want};
use super::work;
use crate::place::Place;
use crate::socket;

/// Load images from a file, a folder or standard input
///
/// Reads an OCI image layout (a folder, or an archive of one), what docker save and podman save make, and with --rootfs
/// the archive of a root file system, which becomes an image of one layer. Archives may be compressed with gzip or zstd.
/// Everything is verified as if it came from a registry; an archive that is damaged or hostile changes nothing.
///
/// An archive from a pipe, or a compressed one, is copied to the image store's disk while it is read (a layout's index
/// may come last in it); a root file system is not. A folder cannot come from standard input.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longshore image load images.tar
  docker save app:7 | longshore image load -
  longshore image load --only app:7 --tag registry.example/app:7 ./layout
  debootstrap bookworm root && tar -C root -c . | longshore image load --rootfs --tag bookworm:1 -")]
pub(crate) struct Load {
    #[command(flatten)]
    place: Place,
    /// Call the image so; needed where the source has no whole name for it
    #[arg(short, long, value_name = "NAME")]
    tag: Option<String>,
    /// Load only the image that the source calls so
    #[arg(long, value_name = "NAME", conflicts_with = "rootfs")]
    only: Option<String>,
    /// The archive is a root file system
    #[arg(long, requires = "tag")]
    rootfs: bool,
    /// Keep the original blobs, too, for exact copies; a running agent has been told already
    #[arg(long)]
    keep_blobs: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Print JSON: an array of reference, digest and number of layers
    #[arg(long)]
    json: bool,
    /// The file or folder; - is standard input
    source: PathBuf,
}

impl Load {
    pub(crate) fn run(self) -> Result<()> {
        let from_stdin = self.source == Path::new("-");
        if from_stdin && std::io::stdin().is_terminal() {
            bail!(
                "load image: standard input is a terminal; name a file, or let a program write to it"
            );
        }
        let bars = Bars::new(self.quiet);
        let images = match Reach::of(&self.place, Want::Change, &Registries::default())? {
            Reach::Agent(_) if self.keep_blobs => bail!(reach::KEEP_BLOBS),
            Reach::Agent(agent) if from_stdin => socket::block_on(work::at_agent(
                &agent,
                &self.path(None)?,
                stdin_body(bars),
                silent(),
            ))?,
            Reach::Agent(agent) => {
                let path = self.path(Some(&self.source))?;
                socket::block_on(work::at_agent(&agent, &path, work::no_body(), bars))?
            }
            Reach::Store(store) => {
                store.keep_blobs(self.keep_blobs);
                let bars = work::Shared::new(bars);
                let tell = |progress: Progress| bars.take(progress);
                let images = store.load(self.origin(from_stdin), &self.wanted(), tell)?;
                reach::settle(&store)?;
                work::told(&images)
            }
            Reach::Nothing => Value::Array(Vec::new()),
        };
        work::print(self.json, &images)
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            rootfs: self.rootfs,
            only: self.only.clone(),
            tag: self.tag.clone(),
        }
    }

    fn origin(&self, from_stdin: bool) -> Origin {
        match from_stdin {
            true => Origin::Stream(Box::new(std::io::stdin()), "standard input".to_owned()),
            false => Origin::Path(self.source.clone()),
        }
    }

    fn path(&self, source: Option<&Path>) -> Result<String> {
        let mut path = format!("/v1/images/load?rootfs={}", self.rootfs);
        for (key, value) in [("tag", &self.tag), ("only", &self.only)] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={}", socket::encoded(value)));
            }
        }
        if let Some(source) = source {
            // The agent has a folder of its own to begin at.
            let whole = std::path::absolute(source)
                .with_context(|| format!("resolve {}", source.display()))?;
            let whole = whole.to_str().with_context(|| {
                format!(
                    "load image {}: its path is not UTF-8; give it as standard input",
                    source.display()
                )
            })?;
            path.push_str(&format!("&path={}", socket::encoded(whole)));
        }
        Ok(path)
    }
}

fn silent() -> Bars {
    Bars::new(true)
}

type Pieces = Result<Frame<Bytes>, std::io::Error>;

/// Standard input as a request's body; what has gone is shown.
fn stdin_body(mut bars: Bars) -> StreamBody<impl futures_util::Stream<Item = Pieces> + Send> {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut sent = 0;
        loop {
            let mut piece = vec![0; 128 * 1024];
            let read = stdin.read(&mut piece);
            let piece = match read {
                Ok(0) => return,
                Ok(len) => {
                    piece.truncate(len);
                    sent += len as u64;
                    Ok(Frame::data(Bytes::from(piece)))
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let is_end = piece.is_err();
            if sender.blocking_send(piece).is_err() || is_end {
                return;
            }
            bars.take(Progress::Fetched { bytes: sent, of: 0 });
        }
    });
    StreamBody::new(futures_util::stream::unfold(
        receiver,
        |mut receiver| async move {
            let piece = receiver.recv().await?;
            Some((piece, receiver))
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        load: Load,
    }

    #[test]
    fn the_agent_is_told_a_whole_path_and_what_is_wanted() {
        let load = Alone::parse_from(["load", "--tag", "a:1", "--only", "b/c", "/x y.tar"]).load;
        let path = load.path(Some(&load.source)).unwrap();
        assert_eq!(
            path,
            "/v1/images/load?rootfs=false&tag=a%3A1&only=b%2Fc&path=%2Fx%20y.tar"
        );
        let load = Alone::parse_from(["load", "--rootfs", "--tag", "a", "-"]).load;
        assert_eq!(
            load.path(None).unwrap(),
            "/v1/images/load?rootfs=true&tag=a"
        );
    }

    #[test]
    fn a_root_file_system_needs_a_name() {
        assert!(Alone::try_parse_from(["load", "--rootfs", "-"]).is_err());
        assert!(Alone::try_parse_from(["load"]).is_err());
    }
}
