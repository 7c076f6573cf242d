//! One pull as the agent does it, for `scripts/bench pull`: prints what it took as a line of JSON.
//!
//!   pull STORE REFERENCE [--tasks N] [--synced] [--keep-blobs] [--warm] [--beside-removal OTHER] [--insecure HOST:PORT]
//!
//! `--tasks`: so many tasks ask for the image at once. `--synced`: the answer waits until the image survives a power cut.
//! `--keep-blobs`: its original blobs are kept, too.
//! `--warm`: the image is pulled once more, and that is what is measured. `--beside-removal`: an image that nobody uses is
//! in the store already, and is collected while this one comes.
//!
//! The memory is the peak of what is resident, less what was before; `in_flight` is how many layers moved at once at most.
//!
//! The longest gap is the longest time in which no layer came further, from the registry's answer to the image.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use longshore_image::{Progress, Prune, Registries, Store};

struct Asked {
    store: String,
    reference: String,
    tasks: usize,
    synced: bool,
    keep_blobs: bool,
    warm: bool,
    beside_removal: Option<String>,
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
        beside_removal: None,
        insecure: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--tasks" => asked.tasks = words.next()?.parse().ok()?,
            "--synced" => asked.synced = true,
            "--keep-blobs" => asked.keep_blobs = true,
            "--warm" => asked.warm = true,
            "--beside-removal" => asked.beside_removal = Some(words.next()?),
            "--insecure" => asked.insecure.push(words.next()?),
            _ => return None,
        }
    }
    Some(asked)
}

fn main() -> std::process::ExitCode {
    let Some(asked) = asked() else {
        eprintln!(
            "usage: pull STORE REFERENCE [--tasks N] [--synced] [--keep-blobs] [--warm] [--beside-removal OTHER] \
             [--insecure HOST:PORT]"
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
    let limits = &registries.limits;
    let most = limits.layers.min(limits.layers_per_registry);
    let store = Store::open(Path::new(&asked.store), registries)?;
    store.keep_blobs(asked.keep_blobs);
    if asked.warm {
        runtime.block_on(store.pull(&asked.reference, |_| {}))?;
        store.sync()?;
    }
    if let Some(other) = &asked.beside_removal {
        runtime.block_on(store.pull(other, |_| {}))?;
        store.sync()?;
    }
    // What came before is not this pull's peak (proc(5), clear_refs).
    std::fs::write("/proc/self/clear_refs", "5")?;
    let resident = status("VmRSS")?;
    let (began, before) = (Instant::now(), cpu()?);
    let gaps = Mutex::new(Gaps::default());
    let look = |_: Progress| gaps.lock().unwrap_or_else(|e| e.into_inner()).look();
    let pulls = (0..asked.tasks).map(|_| store.pull(&asked.reference, look));
    let pulls = futures_util::future::try_join_all(pulls);
    let (images, removed) = std::thread::scope(|scope| {
        let prune = || store.prune(Prune::Unused, &[], &Vec::new, false);
        let removal = asked.beside_removal.as_ref().map(|_| scope.spawn(prune));
        let images = runtime.block_on(pulls);
        look(Progress::Started);
        (images, removal.map(|removal| removal.join()))
    });
    let images = images?;
    let removed = match removed {
        None => 0,
        Some(joined) => joined.map_err(|_| "the removal panicked")??.layers,
    };
    if asked.synced {
        store.sync()?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu()? - before;
    let peak = status("VmHWM")?;
    let gap_ms = gaps
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .longest
        .as_secs_f64()
        * 1000.0;
    let layers = images.first().map_or(0, |image| image.layers.len());
    let in_flight = most.get().min(layers);
    Ok(format!(
        "{{\"seconds\": {seconds:.4}, \"cpu\": {cpu:.2}, \"resident_kib\": {resident}, \"added_kib\": {}, \
         \"in_flight\": {in_flight}, \"gap_ms\": {gap_ms:.1}, \"removed_layers\": {removed}}}",
        peak.saturating_sub(resident)
    ))
}

/// The times between looks.
#[derive(Default)]
struct Gaps {
    last: Option<Instant>,
    longest: Duration,
}

impl Gaps {
    fn look(&mut self) {
        let now = Instant::now();
        let last = self.last.replace(now).unwrap_or(now);
        self.longest = self.longest.max(now - last);
    }
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
