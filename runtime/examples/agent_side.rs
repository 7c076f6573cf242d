//! What an agent does with the runtime, for `scripts/bench runtime`: no command line, no config.json to parse per
//! container. It obeys one word a line on standard input and answers each with a line:
//!
//! ```text
//!   agent_side BINARY CONFIG ROOTFS WORK CGROUP
//!   run          create, start, wait, delete; answers the nanoseconds
//!   ballast MIB  makes this process so much larger, as an agent would be
//!   idle COUNT   leaves containers running
//!   clear        deletes those
//!   filter FILE  stores the compiled seccomp profile: struct sock_filter after struct sock_filter
//! ```

use std::error::Error;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use longshore_runtime::cgroup::Hierarchy;
use longshore_runtime::container::{Container, Launch, Runtime};
use longshore_runtime::seccomp;
use oci_spec::runtime::Spec;
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use serde_json::{Value, json};

struct Bench {
    runtime: Runtime,
    config: Value,
    rootfs: PathBuf,
    work: PathBuf,
    cgroup: String,
    idle: Vec<Container>,
    ballast: Vec<u8>,
}

impl Bench {
    fn open(arguments: &[String]) -> Result<Bench, Box<dyn Error>> {
        let [binary, config, rootfs, work, cgroup] = arguments else {
            return Err("usage: agent_side BINARY CONFIG ROOTFS WORK CGROUP".into());
        };
        let bench = Bench {
            runtime: Runtime::open(Path::new(binary))?,
            config: serde_json::from_slice(&std::fs::read(config)?)?,
            rootfs: rootfs.into(),
            work: work.into(),
            cgroup: cgroup.clone(),
            idle: Vec::new(),
            ballast: Vec::new(),
        };
        for folder in ["containers", "logs"] {
            std::fs::create_dir_all(bench.work.join(folder))?;
        }
        Hierarchy::of_host()?.group(&bench.monitors())?.create()?;
        Ok(bench)
    }

    fn obey(&mut self, line: &str) -> Result<String, Box<dyn Error>> {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["run"] => self.run(),
            ["ballast", mib] => {
                self.ballast = vec![1; mib.parse::<usize>()? << 20];
                Ok(format!("{} bytes", self.ballast.len()))
            }
            ["idle", count] => self.stay(count.parse()?),
            ["clear"] => self.clear(),
            ["filter", file] => self.store_filter(Path::new(file)),
            _ => Err(format!("unknown word: {line}").into()),
        }
    }

    fn run(&self) -> Result<String, Box<dyn Error>> {
        let spec = self.spec("one", &["/bin/true"])?;
        let begin = Instant::now();
        let container = self.create("one", &spec)?;
        container.start()?;
        container.subscribe()?.read_to_end(&mut Vec::new())?;
        let exit = container.exit_record()?;
        container.delete()?;
        let took = begin.elapsed().as_nanos();
        std::fs::remove_dir_all(self.work.join("logs/one"))?;
        match exit {
            Some(record) if record.code == Some(0) => Ok(took.to_string()),
            other => Err(format!("the container ended with {other:?}").into()),
        }
    }

    fn stay(&mut self, count: usize) -> Result<String, Box<dyn Error>> {
        for number in 0..count {
            let id = format!("idle{number}");
            let container = self.create(&id, &self.spec(&id, &["/bin/sleep", "1000000"])?)?;
            container.start()?;
            self.idle.push(container);
        }
        Ok(format!("{count} containers"))
    }

    fn clear(&mut self) -> Result<String, Box<dyn Error>> {
        for container in self.idle.drain(..) {
            container.delete()?;
        }
        Ok("gone".into())
    }

    /// The group is empty once the runtime's own process has ended with it.
    fn end(self) -> Result<(), Box<dyn Error>> {
        let monitors = Hierarchy::of_host()?.group(&self.monitors())?;
        drop(self.runtime);
        Ok(monitors.remove()?)
    }

    fn create(&self, id: &str, spec: &Spec) -> Result<Container, Box<dyn Error>> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let created = self.runtime.create(Launch {
            id,
            spec,
            root: open_tree(CWD, &self.rootfs, flags)?,
            run_dir: &self.work.join("containers").join(id),
            log_dir: &self.work.join("logs").join(id),
            monitor_cgroup: &self.monitors(),
        })?;
        Ok(created.container)
    }

    fn spec(&self, id: &str, args: &[&str]) -> Result<Spec, Box<dyn Error>> {
        let mut config = self.config.clone();
        config["process"]["args"] = json!(args);
        config["linux"]["cgroupsPath"] = json!(format!("{}/{id}", self.cgroup));
        Ok(serde_json::from_value(config)?)
    }

    fn monitors(&self) -> String {
        format!("{}/monitors", self.cgroup)
    }

    fn store_filter(&self, file: &Path) -> Result<String, Box<dyn Error>> {
        let profile = serde_json::from_value(self.config["linux"]["seccomp"].clone())?;
        let filter = seccomp::compile(&profile)?;
        let mut bytes = Vec::new();
        for (code, jt, jf, k) in &filter.instructions {
            bytes.extend(code.to_ne_bytes());
            bytes.extend([*jt, *jf]);
            bytes.extend(k.to_ne_bytes());
        }
        std::fs::write(file, bytes)?;
        Ok(format!("{} instructions", filter.instructions.len()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut bench = Bench::open(&arguments)?;
    let mut answers = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        writeln!(answers, "{}", bench.obey(&line?)?)?;
        answers.flush()?;
    }
    bench.end()
}
