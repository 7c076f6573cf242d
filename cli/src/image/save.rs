//! `longshore image save`.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::BodyExt;
use hyper::Method;
use longshore_image::{Format, Registries};

use super::reach::{Reach, Want, nothing};
use crate::place::Place;
use crate::socket;

/// Write images to an archive
///
/// Where the original blobs of an image were kept (--image-keep-blobs of the agent), its archive has them, with the digests of
/// the registry. Otherwise the archive is made anew from the unpacked layers: it unpacks to the same files, but its layers are not
/// compressed and its digests are others. The same image is always the same archive.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longshore image save -o images.tar nginx:1.27 app:7
  longshore image save nginx:1.27 | zstd > nginx.tar.zst
  longshore image save --format docker nginx:1.27 | docker load
  longshore image save --exact nginx:1.27 | ssh host2 longshore image load -
  longshore image save -o nginx.tar nginx:1.27 && skopeo inspect oci-archive:nginx.tar")]
pub(crate) struct Save {
    #[command(flatten)]
    place: Place,
    /// Write to this file, which is there only once it is whole [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the archive is to be
    #[arg(long, value_enum, default_value_t = Kind::Oci)]
    format: Kind,
    /// Fail unless every image has its original blobs, so that its digest is the registry's
    #[arg(long, conflicts_with = "format")]
    exact: bool,
    /// The images: references, digests, IDs, or the beginning of a digest or ID
    #[arg(required = true)]
    image: Vec<String>,
}

/// [`Format`], as arguments say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// An OCI image layout
    Oci,
    /// What docker load has always read
    Docker,
}

impl Save {
    pub(crate) fn run(self) -> Result<()> {
        let reach = Reach::of(&self.place, Want::Look, &Registries::default())?;
        let Some(output) = &self.output else {
            if std::io::stdout().is_terminal() {
                bail!(
                    "save image: standard output is a terminal; name a file with -o, or a program after |"
                );
            }
            return self.write(&reach, &mut std::io::stdout().lock());
        };
        let beside = Beside::create(output)?;
        self.write(&reach, &mut &beside.file)?;
        beside.keep(output)
    }

    fn write(&self, reach: &Reach, out: &mut dyn Write) -> Result<()> {
        match reach {
            Reach::Agent(agent) => socket::block_on(self.copy(agent, out)),
            Reach::Store(store) => {
                let format = match (self.format, self.exact) {
                    (_, true) => Format::Exact,
                    (Kind::Oci, false) => Format::Oci,
                    (Kind::Docker, false) => Format::Docker,
                };
                Ok(store.save(&self.image, format)?.write(out)?)
            }
            Reach::Nothing => Err(nothing("save image", &self.image.join(", ")).into()),
        }
    }

    async fn copy(&self, agent: &Path, out: &mut dyn Write) -> Result<()> {
        let answer = socket::ask(agent, Method::GET, &self.path(), Bytes::new()).await?;
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| {
                anyhow!("save image: {e}; the agent could not write the archive to its end, its log says why")
            })?;
            if let Ok(bytes) = frame.into_data() {
                out.write_all(&bytes)?;
            }
        }
        Ok(out.flush()?)
    }

    fn path(&self) -> String {
        let format = match (self.format, self.exact) {
            (_, true) => "exact",
            (Kind::Oci, false) => "oci",
            (Kind::Docker, false) => "docker",
        };
        let mut path = format!("/v1/images/archive?format={format}");
        for image in &self.image {
            path.push_str(&format!("&image={}", socket::encoded(image)));
        }
        path
    }
}

/// A file that gets its name once it is whole, and goes if it does not come to that.
struct Beside {
    file: File,
    path: Option<PathBuf>,
}

impl Beside {
    fn create(output: &Path) -> Result<Beside> {
        let mut name = output.file_name().map(ToOwned::to_owned).with_context(|| {
            format!("save image to {}: that is no file's name", output.display())
        })?;
        name.push(format!(".{}.new", std::process::id()));
        let path = output.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let file = file.with_context(|| format!("save image: create {}", path.display()))?;
        Ok(Beside {
            file,
            path: Some(path),
        })
    }

    fn keep(mut self, output: &Path) -> Result<()> {
        let step = || format!("save image: write {}", output.display());
        self.file.sync_all().with_context(step)?;
        if let Some(path) = &self.path {
            std::fs::rename(path, output).with_context(step)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _gone = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("a.tar");
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        drop(Beside::create(&output).unwrap());
        assert_eq!(names(), 0);
        let beside = Beside::create(&output).unwrap();
        (&beside.file).write_all(b"whole").unwrap();
        assert!(!output.exists());
        beside.keep(&output).unwrap();
        assert_eq!(
            (std::fs::read(&output).unwrap().as_slice(), names()),
            (&b"whole"[..], 1)
        );
        assert!(Beside::create(Path::new("/")).is_err());
    }
}
