//! Progress for people: a bar for each layer on a terminal, a line for each finished layer elsewhere. On standard
//! error, so that standard output is the result alone.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_image::{LayerProgress, Progress};

use super::{human, short};
use crate::telling;

/// How often a terminal is drawn anew.
const FRAME: Duration = Duration::from_millis(80);
const BAR: usize = 30;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Terminal { columns: usize, rows: usize },
    Lines,
    Silent,
}

/// One layer.
struct Row {
    layer: LayerProgress,
    /// When its first byte came.
    since: Option<Instant>,
    ended: Option<Instant>,
}

/// Progress on standard error.
pub(super) struct Bars {
    style: Style,
    rows: Vec<Row>,
    places: HashMap<Arc<str>, usize>,
    /// Of what has no layers to tell of.
    bytes: Option<(u64, u64)>,
    begun: Option<Instant>,
    /// Lines that stand on the terminal now.
    drawn: usize,
    last: Option<Instant>,
}

impl Bars {
    /// As standard error is; `quiet`: nothing.
    pub(super) fn new(quiet: bool) -> Bars {
        let stderr = std::io::stderr();
        let style = match (quiet, stderr.is_terminal()) {
            (true, _) => Style::Silent,
            (false, false) => Style::Lines,
            (false, true) => {
                let size = rustix::termios::tcgetwinsize(&stderr).ok();
                let size = size.map(|s| (usize::from(s.ws_col), usize::from(s.ws_row)));
                let (columns, rows) = size.filter(|s| s.0 > 0 && s.1 > 0).unwrap_or((80, 24));
                Style::Terminal { columns, rows }
            }
        };
        Bars::styled(style)
    }

    fn styled(style: Style) -> Bars {
        Bars {
            style,
            rows: Vec::new(),
            places: HashMap::new(),
            bytes: None,
            begun: None,
            drawn: 0,
            last: None,
        }
    }

    #[cfg(test)]
    pub(super) fn silent() -> Bars {
        Bars::styled(Style::Silent)
    }

    pub(super) fn take(&mut self, progress: Progress) {
        let text = self.text(progress, Instant::now());
        if !text.is_empty() {
            // Progress that cannot be shown is no reason to stop.
            let _shown = std::io::stderr().lock().write_all(text.as_bytes());
        }
    }

    /// What is to be written now.
    fn text(&mut self, progress: Progress, now: Instant) -> String {
        if self.style == Style::Silent {
            return String::new();
        }
        self.begun.get_or_insert(now);
        let mut finished = None;
        match progress {
            Progress::Started => {}
            Progress::Fetched { bytes, of } => self.bytes = Some((bytes, of)),
            Progress::Layer(layer) => {
                let next = self.rows.len();
                let place = *self.places.entry(Arc::clone(&layer.digest)).or_insert(next);
                if place == next {
                    self.rows.push(Row {
                        layer: layer.clone(),
                        since: None,
                        ended: None,
                    });
                }
                let row = &mut self.rows[place];
                if layer.bytes > 0 {
                    row.since.get_or_insert(now);
                }
                if layer.done && row.ended.is_none() {
                    row.ended = Some(now);
                    finished = Some(place);
                }
                row.layer = layer;
            }
        }
        match (self.style, finished) {
            (Style::Lines, Some(place)) => format!("{}\n", self.line(place, now)),
            (Style::Lines | Style::Silent, _) => String::new(),
            (Style::Terminal { columns, rows }, finished) => {
                let is_end = finished.is_some() && self.rows.iter().all(|row| row.layer.done);
                let is_time = self.last.is_none_or(|last| now >= last + FRAME);
                if !is_end && !is_time {
                    return String::new();
                }
                self.last = Some(now);
                self.drawing(columns, rows, now)
            }
        }
    }

    /// All bars over those that stand there.
    fn drawing(&mut self, columns: usize, rows: usize, now: Instant) -> String {
        let mut lines = self.lines(rows, now);
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in &mut lines {
            if let Some((end, _)) = line.char_indices().nth(columns.saturating_sub(1)) {
                line.truncate(end);
            }
            text.push_str(&format!("\r\x1b[2K{line}\n"));
        }
        // Fewer than before: the rest of the old ones goes.
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        text
    }

    /// The layers that fit, those that move before those that are done, and a sum.
    fn lines(&self, rows: usize, now: Instant) -> Vec<String> {
        let room = rows.saturating_sub(2).max(1);
        let mut places: Vec<usize> = (0..self.rows.len()).collect();
        if places.len() > room {
            places.sort_by_key(|place| {
                let row = &self.rows[*place];
                (row.layer.done, row.since.is_none())
            });
            places.truncate(room);
            places.sort_unstable();
        }
        let mut lines: Vec<String> = places.iter().map(|p| self.line(*p, now)).collect();
        lines.push(self.sum(now));
        lines
    }

    fn line(&self, place: usize, now: Instant) -> String {
        let row = &self.rows[place];
        let layer = &row.layer;
        let name = short(&layer.digest);
        let size = human(layer.of);
        let took = |until: Instant| row.since.map_or(0.0, |since| (until - since).as_secs_f64());
        match (layer.done, self.style) {
            (true, _) => {
                let seconds = took(row.ended.unwrap_or(now));
                format!("{name}  done  {size} in {seconds:.1} s")
            }
            (false, _) if row.since.is_none() => format!("{name}  waiting  {size}"),
            (false, _) => {
                let state = match layer.bytes >= layer.of {
                    // Bytes are unpacked as they come; the last of them, and what is checked at the end, are left.
                    true => "extracting".to_owned(),
                    false => rate(layer.bytes, took(now)),
                };
                format!(
                    "{name}  [{}]  {} / {size}  {state}",
                    bar(layer.bytes, layer.of),
                    human(layer.bytes)
                )
            }
        }
    }

    fn sum(&self, now: Instant) -> String {
        let seconds = self.begun.map_or(0.0, |begun| (now - begun).as_secs_f64());
        if self.rows.is_empty() {
            let (bytes, of) = self.bytes.unwrap_or_default();
            let of = match of {
                0 => String::new(),
                of => format!(" / {}", human(of)),
            };
            return format!("{}{of}  {}", human(bytes), rate(bytes, seconds));
        }
        let done = self.rows.iter().filter(|row| row.layer.done).count();
        let bytes: u64 = self.rows.iter().map(|row| row.layer.bytes).sum();
        let of: u64 = self.rows.iter().map(|row| row.layer.of).sum();
        format!(
            "{done} of {}  {} / {}  {}",
            telling::count(self.rows.len(), "layer", "layers"),
            human(bytes),
            human(of),
            rate(bytes, seconds)
        )
    }
}

fn rate(bytes: u64, seconds: f64) -> String {
    match seconds > 0.05 {
        true => format!("{}/s", human((bytes as f64 / seconds) as u64)),
        false => String::new(),
    }
}

fn bar(bytes: u64, of: u64) -> String {
    let filled = match of {
        0 => BAR,
        of => (u128::from(bytes.min(of)) * BAR as u128 / u128::from(of)) as usize,
    };
    let head = if filled < BAR { ">" } else { "" };
    format!("{:BAR$}", format!("{}{head}", "=".repeat(filled)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(digest: &str, bytes: u64, done: bool) -> Progress {
        Progress::Layer(LayerProgress {
            digest: format!("sha256:{}", digest.repeat(64)).into(),
            bytes,
            of: 2_000_000,
            done,
        })
    }

    #[test]
    fn a_pipe_gets_a_line_for_each_finished_layer_and_nothing_else() {
        let mut bars = Bars::styled(Style::Lines);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(bars.text(Progress::Started, start), "");
        assert_eq!(bars.text(layer("a", 0, false), start), "");
        assert_eq!(bars.text(layer("a", 1_000_000, false), at(1)), "");
        let done = bars.text(layer("a", 2_000_000, true), at(3));
        assert_eq!(done, "aaaaaaaaaaaa  done  2.0 MB in 2.0 s\n");
        assert_eq!(bars.text(layer("a", 2_000_000, true), at(4)), "");
    }

    #[test]
    fn a_terminal_gets_bars_that_replace_each_other() {
        let mut bars = Bars::styled(Style::Terminal {
            columns: 200,
            rows: 24,
        });
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = bars.text(layer("a", 0, false), start);
        assert!(
            first.contains("aaaaaaaaaaaa  waiting  2.0 MB\n"),
            "{first:?}"
        );
        assert_eq!(
            bars.text(layer("b", 0, false), start),
            "",
            "not at once again"
        );
        bars.text(layer("a", 500_000, false), at(1));
        let half = bars.text(layer("a", 1_000_000, false), at(2));
        assert!(half.starts_with("\x1b[3A\r\x1b[2Kaaaaaaaaaaaa  [===============>              ]  1.0 MB / 2.0 MB  1.0 MB/s\n"), "{half:?}");
        assert!(
            half.contains("0 of 2 layers  1.0 MB / 4.0 MB  500.0 kB/s\n"),
            "{half:?}"
        );
        let all = bars.text(layer("a", 2_000_000, false), at(3));
        assert!(all.contains("2.0 MB / 2.0 MB  extracting\n"), "{all:?}");
    }

    #[test]
    fn more_layers_than_rows_show_those_that_move() {
        let mut bars = Bars::styled(Style::Terminal {
            columns: 20,
            rows: 4,
        });
        let start = Instant::now();
        for digest in ["a", "b", "c", "d"] {
            bars.text(layer(digest, 0, false), start);
        }
        bars.text(layer("a", 2_000_000, true), start);
        bars.text(layer("d", 1, false), start);
        let text = bars.text(layer("d", 2, false), start + FRAME);
        assert!(
            text.contains("dddddddddddd") && !text.contains("aaaaaaaaaaaa"),
            "{text:?}"
        );
        assert_eq!(text.matches('\n').count(), 3, "{text:?}");
        for line in text.split("\x1b[2K").skip(1) {
            let line = line.split('\n').next().unwrap();
            assert!(line.chars().count() < 20, "{line:?}");
        }
    }
}
