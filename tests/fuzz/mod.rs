//! Fuzzing without a fuzzer to install: every target mutates its seeds by the grammar of what it reads
//! (JSON values, headers, markup), keeps an input whose outcome was new, and asserts what must hold of
//! any input. Part of the unit tests, since the parsers are private; a short run is in every test run,
//! a long one in `tests/fuzz/run`. An input that failed lies in `tests/seeds/<target>/` and is tried
//! first from then on.
//!
//! `FUZZ_RUNS` and `FUZZ_SEED` set how long and from which seed; the same seed gives the same inputs.

mod mutate;

use mutate::Mutator;
use std::collections::HashSet;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Inputs of one target in an ordinary test run.
const RUNS: u64 = 3000;
/// Inputs kept for having had a new outcome.
const KEPT: usize = 2000;
/// Tries at making a failing input smaller.
const SHRINKS: usize = 400;

/// What came of one input: a word for the outcome (new words make an input worth keeping), or what
/// should hold and does not.
pub(crate) type Outcome = Result<String, String>;

/// Asserts inside of a property; the text is shown with the input that broke it.
macro_rules! hold {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use hold;

/// One target.
pub(crate) struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    words: Vec<String>,
    one_in: u64,
}

impl Target {
    /// Named as its folder of kept inputs.
    pub(crate) fn new(name: &'static str) -> Target {
        Target {
            name,
            seeds: Vec::new(),
            words: Vec::new(),
            one_in: 1,
        }
    }

    /// Where mutation starts.
    pub(crate) fn seed(mut self, seed: impl AsRef<[u8]>) -> Target {
        self.seeds.push(seed.as_ref().to_vec());
        self
    }

    /// Many of them.
    pub(crate) fn seeds<S: AsRef<[u8]>>(self, seeds: impl IntoIterator<Item = S>) -> Target {
        seeds.into_iter().fold(self, Target::seed)
    }

    /// Words that mean something to the target.
    pub(crate) fn words<W: AsRef<str>>(mut self, words: impl IntoIterator<Item = W>) -> Target {
        self.words
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Fewer runs than the others, for a target whose every run is slow.
    pub(crate) fn one_in(mut self, one_in: u64) -> Target {
        self.one_in = one_in;
        self
    }

    /// Tries the kept inputs, the seeds, and mutations of them; panics at the first that fails.
    pub(crate) fn run(self, property: impl Fn(&[u8]) -> Outcome) {
        let runs = from_environment("FUZZ_RUNS").unwrap_or(RUNS) / self.one_in;
        let seed = from_environment("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
        let mut mutator = Mutator::new(seed, self.words.clone());
        let mut corpus: Vec<Vec<u8>> = self.seeds.clone();
        let mut outcomes = HashSet::new();
        let mut slowest = (Duration::ZERO, 0);
        let began = Instant::now();
        for input in self.kept().iter().chain(&self.seeds) {
            outcomes.insert(self.check(&property, input, seed));
        }
        for _ in 0..runs {
            let input = mutator.next(&corpus);
            let started = cpu();
            let outcome = self.check(&property, &input, seed);
            let took = cpu().saturating_sub(started);
            if took > slowest.0 {
                slowest = (took, input.len());
            }
            if corpus.len() < KEPT + self.seeds.len() && outcomes.insert(outcome) {
                corpus.push(input);
            }
        }
        // Shown with `--nocapture`, or when the test fails.
        println!(
            "fuzz {:<16} {runs:>9} runs {:>6.1} s  seed {seed:<20}  panics 0  broken 0  outcomes {:>4}  \
             slowest {:.1} ms ({} bytes)",
            self.name,
            began.elapsed().as_secs_f64(),
            outcomes.len(),
            slowest.0.as_secs_f64() * 1000.0,
            slowest.1,
        );
    }

    fn check(&self, property: &impl Fn(&[u8]) -> Outcome, input: &[u8], seed: u64) -> String {
        match outcome(property, input) {
            Ok(word) => word,
            Err(why) => {
                let (small, why) = shrunk(property, input, why);
                let kept = self.keep(&small);
                panic!(
                    "{}: {why}\nseed {seed}; kept as {kept}\ninput of {} bytes: {}",
                    self.name,
                    small.len(),
                    excerpt(&small)
                );
            }
        }
    }

    fn folder(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/seeds")
            .join(self.name)
    }

    fn kept(&self) -> Vec<Vec<u8>> {
        let Ok(folder) = std::fs::read_dir(self.folder()) else {
            return Vec::new();
        };
        let mut files: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
        files.sort();
        let texts = files.iter().map(std::fs::read);
        texts.map(|text| text.expect("a kept input")).collect()
    }

    fn keep(&self, input: &[u8]) -> String {
        let number = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let file = format!("{number:016x}");
        let kept = std::fs::create_dir_all(self.folder())
            .and_then(|()| std::fs::write(self.folder().join(&file), input));
        match kept {
            Ok(()) => format!("tests/seeds/{}/{file}", self.name),
            Err(error) => format!("nothing ({error})"),
        }
    }
}

/// Time of the processor that this thread has had: what else the machine does is not the input's fault.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: a number is expected")),
    )
}

fn outcome(property: &impl Fn(&[u8]) -> Outcome, input: &[u8]) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| property(input))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("a panic: {}", text.unwrap_or("without a text")))
    })
}

/// Cuts pieces out while it still fails, in whatever way: a small input is read more easily.
fn shrunk(property: &impl Fn(&[u8]) -> Outcome, input: &[u8], why: String) -> (Vec<u8>, String) {
    let (mut small, mut why) = (input.to_vec(), why);
    let (mut tries, mut piece) = (0, input.len().div_ceil(2));
    while piece > 0 && tries < SHRINKS {
        let (mut at, mut cut) = (0, false);
        while at < small.len() && tries < SHRINKS {
            let mut less = small.clone();
            less.drain(at..(at + piece).min(small.len()));
            tries += 1;
            match outcome(property, &less) {
                Err(still) => (small, why, cut) = (less, still, true),
                Ok(_) => at += piece,
            }
        }
        if !cut {
            piece /= 2;
        }
    }
    (small, why)
}

/// The beginning of an input, printable.
fn excerpt(input: &[u8]) -> String {
    let mut text = String::new();
    for byte in input.iter().take(600) {
        match byte {
            b' '..=b'~' | b'\n' => text.push(char::from(*byte)),
            other => {
                let _ = write!(text, "\\x{other:02x}");
            }
        }
    }
    text
}

/// An HTTP answer as a text that can be mutated: a line with the status, header lines, an empty line,
/// the body. What cannot be read as a status counts as 200.
pub(crate) fn answer(input: &[u8]) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let end = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = match end {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (input, &b""[..]),
    };
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.trim().parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    (status.unwrap_or(200), headers, body.to_vec())
}

/// The other way round.
pub(crate) fn wire(status: u16, headers: &[(&str, &str)], body: &str) -> String {
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    format!("{status}\n{lines}\n{body}")
}

#[test]
fn a_broken_property_is_found_made_small_and_reported() {
    let wrong = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) if value.get("b").is_some_and(|b| b.is_array()) => Err("an array".to_owned()),
            Ok(_) => Ok("other".to_owned()),
            Err(_) => Ok("broken".to_owned()),
        }
    };
    let seed: &[u8] = br#"{"a":[1,2,3],"b":"text","c":{"d":null}}"#;
    let mut mutator = Mutator::new(7, vec!["b".to_owned()]);
    let found = (0..20_000)
        .map(|_| mutator.next(&[seed.to_vec()]))
        .find(|input| wrong(input).is_err())
        .expect("mutation swaps the type of a value");
    let (small, why) = shrunk(&wrong, &found, String::new());
    assert_eq!(why, "an array");
    assert!(small.len() < found.len(), "{}", excerpt(&small));
    let panics = |_: &[u8]| -> Outcome { panic!("told") };
    assert_eq!(outcome(&panics, b""), Err("a panic: told".to_owned()));
}
