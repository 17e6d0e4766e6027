//! The run that only kills: daemons on one Redis and one folder, one of them killed about every second, and for
//! every second submit the kill that explains it.

use super::chaos::{Judged, Stream, job_of, judge, story};
use super::{Daemon, SOON, World, eventually};
use fal_worker::sandbox::faults::{Fault, Rule};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Jobs that stood inside a payment or a send when their process ended, from the slots of its step file; read
/// here by the format alone, not by the worker's own code. `None`: another process was quicker and read it.
fn inside(folder: &Path, instance: &str) -> Option<Vec<String>> {
    const PLACE: usize = 16 << 10; // of the header and of each slot
    let bytes = fs::read(folder.join(format!("{instance}.steps"))).ok()?;
    let mut jobs = Vec::new();
    for slot in bytes.chunks(PLACE).skip(1) {
        let Some(head) = slot.get(..8) else { continue };
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(payload) = slot.get(8..8 + len) else {
            continue;
        };
        if let Some(rest) = payload.strip_prefix(b"a") {
            let text = String::from_utf8_lossy(rest);
            jobs.extend(text.split_once('\n').map(|(_, id)| id.to_owned()));
        }
    }
    Some(jobs)
}

/// The run that only kills.
#[derive(Clone, Copy, Debug)]
pub struct Kills {
    pub seed: u64,
    pub daemons: usize,
    pub jobs: usize,
    pub span: Duration,
    /// Whether the daemons have step files.
    pub step_file: bool,
}

/// What it came to.
#[derive(Debug)]
pub struct Killed {
    pub kills: usize,
    pub judged: Judged,
    /// Jobs inside a payment or a send at the moment of a kill, all kills together.
    pub inside: usize,
    /// Second submits of jobs that were not inside one when their daemon was killed: must be none.
    pub unexplained: Vec<String>,
    /// From fal's acceptance of a submit that was made again to the kill: not much more than the answer's way.
    pub before_kill: Vec<Duration>,
    /// From the line `ready` of the successor to the first job of the dead one in new hands.
    pub resumed: Vec<Duration>,
    /// The same from the kill.
    pub since_kill: Vec<Duration>,
    /// From the last push to the last end.
    pub settled: Duration,
    broken: Vec<String>,
}

const THREADS: usize = 8;
/// A request takes so long to arrive and its answer so long to come back, where something is paid or sent:
/// else hardly a kill would fall into an exchange.
const THERE: Duration = Duration::from_millis(60);
const BACK: Duration = Duration::from_millis(120);
/// A process on a busy machine needs so long at most from an answer on its socket to the note of it.
const NOTED: Duration = Duration::from_millis(500);

/// One kill, as the test saw it.
struct Kill {
    at: Instant,
    inside: Option<Vec<String>>,
}

/// Three daemons (or more) on one Redis and one folder; one is killed every 0.4 to 1.2 s and restarted at
/// once, while jobs of all kinds keep coming.
pub fn kills(settings: Kills) -> Killed {
    let Kills {
        seed,
        daemons,
        jobs,
        span,
        step_file,
    } = settings;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new();
    let threads = THREADS.to_string();
    let mut flags = vec!["--threads", &threads];
    if !step_file {
        flags.extend(["--state-dir", "off"]);
    }
    let mut running: Vec<Daemon> = (0..daemons).map(|_| world.daemon(&flags)).collect();
    let folder = world.state_dir().join("fal");
    for endpoint in ["fal.submit", "tg.*"] {
        for (fault, ms) in [
            (Fault::DelayMs as fn(u64) -> Fault, THERE),
            (Fault::LateAnswer, BACK),
        ] {
            let rule = Rule::always(endpoint, fault(ms.as_millis() as u64));
            world.sandbox.faults.add(rule);
        }
    }
    let rate = jobs as f64 / span.as_secs_f64();
    let mut stream = Stream::new(&world, Duration::from_secs(3), rate, 20);
    let mut killed = Killed {
        kills: 0,
        judged: Judged::default(),
        inside: 0,
        unexplained: Vec::new(),
        before_kill: Vec::new(),
        resumed: Vec::new(),
        since_kill: Vec::new(),
        settled: Duration::ZERO,
        broken: Vec::new(),
    };
    let mut all: Vec<Kill> = Vec::new();
    let started = Instant::now();
    let mut next = started + pause(&mut random);
    while started.elapsed() < span {
        if Instant::now() < next {
            stream.go_on(&mut world, jobs);
            std::thread::sleep(Duration::from_millis(5)); // the pace of the stream
            continue;
        }
        let which = random.usize(..daemons);
        let instance = running[which].instance();
        running[which].kill();
        let at = Instant::now();
        let inside = step_file.then(|| inside(&folder, &instance)).flatten();
        let claims = world.claims(&instance);
        running[which] = world.spawn(&flags, &[]);
        next = at + pause(&mut random);
        all.push(Kill { at, inside });
        follow(
            &mut world,
            &running[which],
            &claims,
            &mut stream,
            jobs,
            at,
            &mut killed,
        );
    }
    let last = Instant::now();
    eventually(
        Duration::from_secs(90),
        || {
            stream.go_on(&mut world, jobs);
            (stream.open(&mut world), stream.pushed.len())
        },
        |(open, pushed)| *open == 0 && *pushed == jobs,
    );
    killed.settled = last.elapsed();
    killed.kills = all.len();
    killed.inside = all.iter().flat_map(|kill| &kill.inside).map(Vec::len).sum();
    killed.judged = judge(&mut world, &mut stream);
    explain(&world, &all, &mut killed);
    killed.broken = killed.check(settings);
    for id in killed.to_tell() {
        eprintln!("{}", story(&mut world, &id));
    }
    for daemon in &mut running {
        if daemon.stop() != Some(0) {
            killed.broken.push("a daemon did not end with 0".to_owned());
        }
    }
    if step_file && !world.step_files().is_empty() {
        killed
            .broken
            .push(format!("left over: {:?}", world.step_files()));
    }
    world.assert_clean_after_kills();
    killed
}

fn pause(random: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(random.u64(400..1200))
}

/// Watches a successor: when it is ready, and when the first of the dead one's jobs is in new hands. A submit
/// of unknown outcome waits two seconds on purpose, and does not count.
fn follow(
    world: &mut World,
    successor: &Daemon,
    claims: &BTreeMap<String, String>,
    stream: &mut Stream,
    jobs: usize,
    killed_at: Instant,
    killed: &mut Killed,
) {
    let mut ready = None;
    let mut moved = None;
    let deadline = Instant::now() + SOON;
    while ready.is_none() || moved.is_none() {
        stream.go_on(world, jobs);
        if ready.is_none() && successor.log_text().contains(" ready ") {
            ready = Some(Instant::now());
        }
        let mut waits = 0;
        for (id, token) in claims.iter().take(32) {
            let fields: Vec<Option<String>> =
                world.redis(&["HMGET", &format!("fal:job:{id}"), "state", "token"]);
            match fields[0].as_deref() {
                Some("later") => waits += 1,
                _ if fields[1].as_ref() != Some(token) => moved = moved.or(Some(Instant::now())),
                _ => {}
            }
        }
        if waits == claims.len().min(32) && ready.is_some() {
            return; // nothing that could have moved
        }
        assert!(
            Instant::now() < deadline,
            "no job of a dead daemon moved within {SOON:?} of its successor's start:\n{}",
            successor.log_text()
        );
        std::thread::sleep(Duration::from_millis(2)); // a look at a condition, with a deadline
    }
    if let (Some(ready), Some(moved)) = (ready, moved) {
        killed.resumed.push(moved.saturating_duration_since(ready));
        killed.since_kill.push(moved - killed_at);
    }
}

/// Finds for every second submit the kill that explains it.
fn explain(world: &World, all: &[Kill], killed: &mut Killed) {
    let mut by_job: HashMap<String, Vec<Instant>> = HashMap::new();
    for submit in world.sandbox.fal.submits() {
        by_job
            .entry(job_of(&submit.input))
            .or_default()
            .push(submit.at);
    }
    for (id, submits) in by_job {
        for again in submits.windows(2) {
            let (first, second) = (again[0], again[1]);
            let mut between = all.iter().filter(|kill| {
                // A request that a dead daemon had sent arrives after its death.
                kill.at + THERE + NOTED > first && kill.at < second
            });
            let explains = |kill: &&Kill| {
                let inside = kill.inside.as_ref();
                inside.is_none_or(|jobs| jobs.contains(&id))
            };
            match between.find(explains) {
                Some(kill) => {
                    let before = kill.at.saturating_duration_since(first);
                    killed.before_kill.push(before);
                }
                None => killed.unexplained.push(id.clone()),
            }
        }
    }
}

impl Killed {
    /// What is broken, in words; nothing when all is well.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    fn check(&self, settings: Kills) -> Vec<String> {
        let mut broken = self.judged.broken();
        let most = THREADS * self.kills;
        let judged = &self.judged;
        if judged.done != judged.jobs {
            broken.push(format!(
                "{} of {} are done: {:?}",
                judged.done, judged.jobs, judged.dead
            ));
        }
        if judged.paid_again > most || judged.sent_again > most {
            broken.push(format!(
                "more again than {most}, threads times kills: {judged:?}"
            ));
        }
        if settings.step_file && !self.unexplained.is_empty() {
            broken.push(format!(
                "submitted again though no kill cut the submit off: {:?}",
                self.unexplained
            ));
        }
        if settings.step_file && longest(&self.before_kill) > BACK + NOTED {
            broken.push(format!(
                "submitted again though the answer had come long before the kill: {:?}",
                self.before_kill
            ));
        }
        let slow = median(&self.resumed) > Duration::from_secs(1);
        if slow {
            broken.push(format!("work resumed too late: {:?}", self.resumed));
        }
        broken
    }

    fn to_tell(&self) -> Vec<String> {
        let judged = &self.judged;
        let lists = [
            &judged.lost,
            &judged.ended_twice,
            &judged.edits_twice,
            &judged.unseen,
            &judged.unsaid,
        ];
        let mut ids: Vec<String> = lists.into_iter().flatten().cloned().collect();
        ids.extend(judged.dead.values().flatten().cloned());
        if !self.broken.is_empty() {
            ids.extend(self.unexplained.iter().cloned());
        }
        ids.truncate(10);
        ids
    }
}

/// The middle one; nothing of nothing.
pub fn median(spans: &[Duration]) -> Duration {
    let mut sorted = spans.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The longest; nothing of nothing.
pub fn longest(spans: &[Duration]) -> Duration {
    spans.iter().max().copied().unwrap_or_default()
}
