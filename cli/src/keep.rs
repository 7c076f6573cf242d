//! The options of `dev` and `agent` that say when images are pulled and when they are removed.

use std::time::Duration;

use anyhow::{Result, bail};
use longshore_agent::{GcPolicy, ImagePolicy, PullBehaviour};

/// See docs/how-to/image-store.md.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ImageOptions {
    /// When a registry is asked for an image: default (each time; what is stored serves if the registry cannot be
    /// reached), always (each time), once (if nothing is stored), prefer-cached (the same, and nothing is removed)
    #[arg(
        long,
        value_name = "WORD",
        env = "ECS_IMAGE_PULL_BEHAVIOR",
        default_value_t
    )]
    image_pull_behavior: PullBehaviour,
    /// Remove unused images when more than so many percent of the disk are in use
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = percent())]
    image_gc_high: u8,
    /// ... until no more than so many percent are
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = percent())]
    image_gc_low: u8,
    /// No image is removed before it was unused for so long (90s, 15m, 1h, 7d)
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    image_gc_min_age: Duration,
    /// An image is removed when it was unused for so long [default: never for its age alone]
    #[arg(long, value_name = "TIME", value_parser = time)]
    image_gc_max_age: Option<Duration>,
    /// Never remove images of such names (docker.io/library/*, registry.example/base:*)
    #[arg(long = "image-protect", value_name = "PATTERN")]
    protected: Vec<String>,
    /// Fetch this image when the agent starts, and keep it
    #[arg(long = "image-prefetch", value_name = "REFERENCE")]
    prefetch: Vec<String>,
    /// Keep the original blobs of images beside their layers, for exact copies (longshore image save --exact)
    #[arg(long = "image-keep-blobs")]
    keep_blobs: bool,
}

pub(crate) fn percent() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=100)
}

/// A number and one of s, m, h, d.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let bad = || "write a number and one of s, m, h, d: 90s, 15m, 1h, 7d".to_owned();
    let seconds = [('s', 1), ('m', 60), ('h', 60 * 60), ('d', 24 * 60 * 60)];
    let unit = seconds.iter().find(|(unit, _)| text.ends_with(*unit));
    let (unit, seconds) = unit.ok_or_else(bad)?;
    let number = text.strip_suffix(*unit).unwrap_or_default();
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = match digits {
        true => number.parse().map_err(|_| bad())?,
        false => return Err(bad()),
    };
    number
        .checked_mul(*seconds)
        .map(Duration::from_secs)
        .ok_or_else(bad)
}

impl ImageOptions {
    pub(crate) fn policy(&self) -> Result<ImagePolicy> {
        if self.image_gc_low > self.image_gc_high {
            bail!(
                "--image-gc-low {} is above --image-gc-high {}: removing would never end",
                self.image_gc_low,
                self.image_gc_high
            );
        }
        Ok(ImagePolicy {
            behaviour: self.image_pull_behavior,
            gc: GcPolicy {
                high: self.image_gc_high,
                low: self.image_gc_low,
                min_age: self.image_gc_min_age,
                max_age: self.image_gc_max_age,
                protected: self.protected.clone(),
            },
            prefetch: self.prefetch.clone(),
            keep_blobs: self.keep_blobs,
        })
    }

    /// The options of a command line that say these; what is as usual is left out.
    pub(crate) fn words(&self) -> Vec<String> {
        let usual = GcPolicy::default();
        let mut words = Vec::new();
        let mut say = |option: &str, value: String| words.extend([option.to_owned(), value]);
        if self.image_pull_behavior != PullBehaviour::default() {
            say(
                "--image-pull-behavior",
                self.image_pull_behavior.to_string(),
            );
        }
        if self.image_gc_high != usual.high {
            say("--image-gc-high", self.image_gc_high.to_string());
        }
        if self.image_gc_low != usual.low {
            say("--image-gc-low", self.image_gc_low.to_string());
        }
        if self.image_gc_min_age != usual.min_age {
            say(
                "--image-gc-min-age",
                format!("{}s", self.image_gc_min_age.as_secs()),
            );
        }
        if let Some(age) = self.image_gc_max_age {
            say("--image-gc-max-age", format!("{}s", age.as_secs()));
        }
        for pattern in &self.protected {
            say("--image-protect", pattern.clone());
        }
        for reference in &self.prefetch {
            say("--image-prefetch", reference.clone());
        }
        if self.keep_blobs {
            words.push("--image-keep-blobs".to_owned());
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        images: ImageOptions,
    }

    fn parsed(words: &[&str]) -> Result<ImageOptions, clap::Error> {
        Alone::try_parse_from(["x"].iter().chain(words)).map(|alone| alone.images)
    }

    #[test]
    fn without_options_the_policy_is_the_usual_one() {
        let options = parsed(&[]).unwrap();
        assert_eq!(options.policy().unwrap(), ImagePolicy::default());
        assert_eq!(options.words(), [""; 0]);
    }

    #[test]
    fn what_is_said_is_said_again() {
        let said = [
            "--image-pull-behavior",
            "prefer-cached",
            "--image-gc-high",
            "90",
            "--image-gc-low",
            "50",
            "--image-gc-min-age",
            "2m",
            "--image-gc-max-age",
            "7d",
            "--image-protect",
            "a*",
            "--image-prefetch",
            "b",
            "--image-keep-blobs",
        ];
        let first = parsed(&said).unwrap();
        let again: Vec<String> = first.words();
        let again: Vec<&str> = again.iter().map(String::as_str).collect();
        assert_eq!(
            parsed(&again).unwrap().policy().unwrap(),
            first.policy().unwrap()
        );
        let policy = first.policy().unwrap();
        assert_eq!(
            policy.gc.max_age,
            Some(Duration::from_secs(7 * 24 * 60 * 60))
        );
        assert_eq!(policy.behaviour, PullBehaviour::PreferCached);
        assert!(policy.keep_blobs);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in [
            "",
            "s",
            "1",
            "1w",
            "-1s",
            "+1s",
            "1.5h",
            "99999999999999999999d",
        ] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert!(parsed(&["--image-gc-high", "101"]).is_err());
        assert!(parsed(&["--image-pull-behavior", "never"]).is_err());
        let crossed = parsed(&["--image-gc-high", "60"]).unwrap();
        assert!(
            crossed
                .policy()
                .unwrap_err()
                .to_string()
                .contains("above --image-gc-high 60")
        );
    }
}
