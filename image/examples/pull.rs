//! One pull as the agent does it, for `scripts/bench pull`: prints what it took as a line of JSON.
//!
//!   pull STORE REFERENCE [--tasks N] [--synced] [--keep-blobs] [--warm] [--insecure HOST:PORT]
//!
//! `--tasks`: so many tasks ask for the image at once. `--synced`: the answer waits until the image survives a power cut.
//! `--keep-blobs`: its original blobs are kept, too.
//! `--warm`: the image is pulled once more, and that is what is measured.

use std::path::Path;
use std::time::Instant;

use longshore_image::{Registries, Store};

struct Asked {
    store: String,
    reference: String,
    tasks: usize,
    synced: bool,
    keep_blobs: bool,
    warm: bool,
    insecure: Vec<String>,
}

fn asked() -> Option<Asked> {
    let mut words = std::env::args().skip(1);
    let mut asked = Asked {
        store: words.next()?,
        reference: words.next()?,
        tasks: 1,
        synced: false,
        keep_blobs: false,
        warm: false,
        insecure: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--tasks" => asked.tasks = words.next()?.parse().ok()?,
            "--synced" => asked.synced = true,
            "--keep-blobs" => asked.keep_blobs = true,
            "--warm" => asked.warm = true,
            "--insecure" => asked.insecure.push(words.next()?),
            _ => return None,
        }
    }
    Some(asked)
}

fn main() -> std::process::ExitCode {
    let Some(asked) = asked() else {
        eprintln!(
            "usage: pull STORE REFERENCE [--tasks N] [--synced] [--keep-blobs] [--warm] [--insecure HOST:PORT]"
        );
        return std::process::ExitCode::from(2);
    };
    match pull(&asked) {
        Ok(line) => println!("{line}"),
        Err(error) => {
            eprintln!("{error}");
            return std::process::ExitCode::FAILURE;
        }
    }
    std::process::ExitCode::SUCCESS
}

fn pull(asked: &Asked) -> Result<String, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let registries = Registries {
        insecure: asked.insecure.clone(),
        ..Registries::default()
    };
    let store = Store::open(Path::new(&asked.store), registries)?;
    store.keep_blobs(asked.keep_blobs);
    if asked.warm {
        runtime.block_on(store.pull(&asked.reference, |_| {}))?;
        store.sync()?;
    }
    let resident = status("VmRSS")?;
    let (began, before) = (Instant::now(), cpu()?);
    let pulls = (0..asked.tasks).map(|_| store.pull(&asked.reference, |_| {}));
    let images = runtime.block_on(futures_util::future::try_join_all(pulls))?;
    if asked.synced {
        store.sync()?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu()? - before;
    let peak = status("VmHWM")?;
    let layers = images.first().map_or(0, |image| image.layers.len());
    Ok(format!(
        "{{\"seconds\": {seconds:.4}, \"cpu\": {cpu:.2}, \"resident_kib\": {resident}, \"added_kib\": {}, \
         \"layers\": {layers}}}",
        peak.saturating_sub(resident)
    ))
}

/// CPU seconds of this process so far, all threads: fields 14 and 15 of proc(5)'s stat, in hundredths.
fn cpu() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name may hold spaces; what follows its bracket begins with field 3.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks: Result<Vec<u32>, _> = ticks.map(str::parse).collect();
    Ok(f64::from(ticks?.iter().sum::<u32>()) / 100.0)
}

/// A number of /proc/self/status, in KiB.
fn status(field: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| format!("/proc/self/status has no {field}").into())
}
