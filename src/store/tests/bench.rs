//! A private Redis, instances on it, and a proxy that loses answers or brings requests late.

use super::super::*;
use crate::job::flight::Event;
use crate::job::{Phase, spec};
use crate::sandbox::redis::{RedisChild, RedisOptions};
use redis::{Connection, FromRedisValue};
use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::AtomicU8;

pub(super) const NS: &str = "t";
pub(super) const DEFAULTS: Defaults = Defaults {
    max_attempts: 3,
    max_wait: None,
};
pub(super) const LEASE: Duration = Duration::from_secs(30);
pub(super) const KEEP: Keep = Keep {
    done: Duration::from_secs(3600),
    dead: Duration::from_secs(7200),
    events_max: 100_000,
};

pub(super) struct Bench {
    pub(super) redis: RedisChild,
    con: RefCell<Connection>,
}

/// One instance: registered by a beat, its connection goes through a proxy.
pub(super) struct Instance {
    pub(super) store: Arc<Store>,
    pub(super) session: Session,
    pub(super) proxy: Arc<Proxy>,
}

impl Bench {
    pub(super) fn start() -> Bench {
        Bench::start_with(RedisOptions {
            append_only: false,
            ..RedisOptions::default()
        })
    }

    pub(super) fn start_with(options: RedisOptions) -> Bench {
        let redis = RedisChild::start(options).expect("redis-server is installed");
        let con = redis::Client::open(redis.url())
            .and_then(|client| client.get_connection())
            .expect("connects");
        Bench {
            redis,
            con: RefCell::new(con),
        }
    }

    pub(super) fn instance(&self) -> Instance {
        self.instance_keeping(KEEP)
    }

    pub(super) fn instance_keeping(&self, keep: Keep) -> Instance {
        self.instance_of(keep, Process::default())
    }

    /// One that may be silent for so long.
    pub(super) fn instance_with_lease(&self, lease: Duration) -> Instance {
        let process = Process {
            lease,
            ..Process::default()
        };
        self.instance_of(KEEP, process)
    }

    fn instance_of(&self, keep: Keep, process: Process) -> Instance {
        let proxy = Proxy::start(self.redis.port());
        let url = format!("redis://127.0.0.1:{}", proxy.port);
        let access = Access {
            redis: redis::IntoConnectionInfo::into_connection_info(url)
                .expect("a URL")
                .into(),
            namespace: NS.to_owned(),
            inbox: format!("{NS}:inbox"),
            connections: 4,
        };
        let process = Process {
            name: "w".to_owned(),
            ..process
        };
        let store = Store::new(&access, keep, process).expect("a store");
        let session = store.probing_session(Duration::from_secs(5));
        let instance = Instance {
            store,
            session,
            proxy,
        };
        instance.beat();
        // A lost answer shall be that of the script, not NOSCRIPT.
        let s = &instance.store.scripts;
        let all = [
            &s.take,
            &s.intake,
            &s.claim,
            &s.submitted,
            &s.save,
            &s.later,
            &s.end,
            &s.give_back,
            &s.crash,
            &s.promote,
            &s.beat,
            &s.bury,
            &s.take_back,
            &s.leave,
            &s.reassert,
            &s.pause,
            &s.audit,
            &s.rate,
            &s.models,
            &s.minutes,
            &s.limits,
            &s.configure,
        ];
        for script in all {
            let mut cmd = redis::cmd("SCRIPT");
            cmd.arg("LOAD").arg(script.code());
            instance.session.command(&cmd).expect("loads");
        }
        instance
    }

    /// One command, its words separated by spaces.
    pub(super) fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        let mut cmd = Cmd::new();
        for word in command.split(' ') {
            cmd.arg(word);
        }
        cmd.query(&mut *self.con.borrow_mut())
            .unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Many commands in one round trip.
    pub(super) fn ask_all(&self, commands: &[String]) -> std::vec::IntoIter<Value> {
        let mut pipe = redis::pipe();
        for command in commands {
            let mut words = command.split(' ');
            pipe.cmd(words.next().expect("a command"));
            for word in words {
                pipe.arg(word);
            }
        }
        let answers: Vec<Value> = pipe
            .query(&mut *self.con.borrow_mut())
            .unwrap_or_else(|error| panic!("{commands:?}: {error}"));
        answers.into_iter()
    }

    /// Runs a piece of Lua.
    pub(super) fn redis_eval(&self, lua: &str) {
        let () = redis::cmd("EVAL")
            .arg(lua)
            .arg(0)
            .query(&mut *self.con.borrow_mut())
            .expect("runs");
    }

    pub(super) fn push(&self, entry: &str) {
        redis::cmd("LPUSH")
            .arg(format!("{NS}:inbox"))
            .arg(entry)
            .exec(&mut *self.con.borrow_mut())
            .expect("pushes");
    }

    pub(super) fn record(&self, id: &str) -> BTreeMap<String, String> {
        self.ask(&format!("HGETALL {NS}:job:{id}"))
    }

    pub(super) fn field(&self, id: &str, name: &str) -> Option<String> {
        self.ask(&format!("HGET {NS}:job:{id} {name}"))
    }

    pub(super) fn state(&self, id: &str) -> String {
        self.field(id, "state").unwrap_or_default()
    }

    /// Ids of a ready list in the order they are served.
    pub(super) fn ready(&self, list: &str) -> Vec<String> {
        let mut ids: Vec<String> = self.ask(&format!("LRANGE {NS}:ready:{list} 0 -1"));
        ids.reverse();
        ids
    }

    pub(super) fn later(&self) -> Vec<String> {
        self.ask(&format!("ZRANGE {NS}:later 0 -1"))
    }

    /// Seconds, -1 without an expiry, -2 without a key. Up to the next ten: some may have gone by since it was set.
    pub(super) fn ttl(&self, key: &str) -> i64 {
        let left: i64 = self.ask(&format!("TTL {NS}:{key}"));
        if left < 10 {
            left
        } else {
            (left + 9) / 10 * 10
        }
    }

    /// Events: name and fields.
    pub(super) fn events(&self) -> Vec<(String, BTreeMap<String, String>)> {
        let all: Vec<(String, BTreeMap<String, String>)> =
            self.ask(&format!("XRANGE {NS}:events - +"));
        all.into_iter()
            .map(|(_, fields)| (fields["event"].clone(), fields))
            .collect()
    }

    pub(super) fn events_of(&self, id: &str) -> Vec<String> {
        self.events()
            .into_iter()
            .filter(|(_, fields)| fields.get("job").is_some_and(|job| job == id))
            .map(|(name, _)| name)
            .collect()
    }

    /// Everything in Redis but what beats and rings change, as text; times are left out when `timeless`.
    pub(super) fn dump(&self) -> BTreeMap<String, String> {
        let keys: Vec<String> = self.ask(&format!("KEYS {NS}:*"));
        let mut out = BTreeMap::new();
        for key in keys {
            let kind: String = self.ask(&format!("TYPE {key}"));
            let text = match kind.as_str() {
                "hash" => {
                    let mut fields: BTreeMap<String, String> = self.ask(&format!("HGETALL {key}"));
                    fields.remove("pulled_at");
                    format!("{fields:?}")
                }
                "list" => format!(
                    "{:?}",
                    self.ask::<Vec<String>>(&format!("LRANGE {key} 0 -1"))
                ),
                "set" => {
                    let mut members: Vec<String> = self.ask(&format!("SMEMBERS {key}"));
                    members.sort();
                    format!("{members:?}")
                }
                "zset" if key == format!("{NS}:workers") => continue,
                "zset" => format!(
                    "{:?}",
                    self.ask::<Vec<String>>(&format!("ZRANGE {key} 0 -1 WITHSCORES"))
                ),
                "stream" => format!("{:?}", self.events()),
                _ => self.ask(&format!("GET {key}")),
            };
            out.insert(key, text);
        }
        out
    }

    /// Redis's time, ms.
    pub(super) fn now(&self) -> i64 {
        let (seconds, micros): (i64, i64) = self.ask("TIME");
        seconds * 1000 + micros / 1000
    }

    pub(super) fn oom(&self) {
        self.ask::<String>("CONFIG SET maxmemory-policy noeviction");
        self.ask::<String>("CONFIG SET maxmemory 1");
    }

    pub(super) fn memory_back(&self) {
        self.ask::<String>("CONFIG SET maxmemory 0");
    }

    /// EVALSHA and EVAL calls so far.
    pub(super) fn scripts_run(&self) -> u64 {
        let stats: String = self.ask("INFO commandstats");
        stats
            .lines()
            .filter(|line| line.starts_with("cmdstat_eval"))
            .filter_map(|line| {
                line.split("calls=")
                    .nth(1)?
                    .split(',')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum()
    }

    /// What the audit has seen so far, it saw this much earlier.
    pub(super) fn audit_was(&self, ago: Duration) {
        let code = r"
            local known = redis.call('HGETALL', KEYS[1])
            for i = 1, #known, 2 do
              local name = known[i]
              if name == 'at' or name == 'due' or name:find('^[ik]:') then
                redis.call('HINCRBY', KEYS[1], name, -ARGV[1])
              end
            end
            for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
              redis.call('ZINCRBY', KEYS[2], -ARGV[1], id)
            end";
        let mut eval = redis::cmd("EVAL");
        eval.arg(code).arg(2);
        eval.arg(format!("{NS}:audit"))
            .arg(format!("{NS}:suspects"));
        eval.arg(ago.as_millis() as i64);
        eval.exec(&mut *self.con.borrow_mut()).expect("earlier");
    }

    /// Repairs counted so far, by kind.
    pub(super) fn repairs(&self) -> BTreeMap<String, u64> {
        let stats: BTreeMap<String, String> = self.ask(&format!("HGETALL {NS}:stats"));
        let repairs = stats.into_iter().filter_map(|(name, count)| {
            let kind = name.strip_prefix("repairs:")?.to_owned();
            Some((kind, count.parse().expect("a number")))
        });
        repairs.collect()
    }

    /// All that is due in `later` this moment or in an hour becomes due now, in its old order.
    pub(super) fn an_hour_passes(&self) {
        for (place, id) in self.later().iter().enumerate() {
            self.ask::<i64>(&format!("ZADD {NS}:later {} {id}", place + 1));
        }
    }
}

/// A job entry with the members that the test is about.
pub(super) fn job(id: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(r#"{{"id":"{id}","model":"a/b","input":{{"n":9007199254740993}}{comma}{more}}}"#)
}

impl Instance {
    pub(super) fn name(&self) -> String {
        self.store.identity().instance.clone()
    }

    pub(super) fn beat(&self) -> Beat {
        self.session
            .beat(0, 0, 0, None)
            .expect("answers")
            .expect("lives")
    }

    /// What one call of the audit mends, when its time has come.
    pub(super) fn audit(&self) -> BTreeMap<String, u64> {
        let audit = self.session.audit(LEASE).expect("answers");
        audit.repairs.into_iter().collect()
    }

    /// Calls of the audit in a row until it has been through the whole store, pages of this size.
    pub(super) fn audit_all(&self, bench: &Bench, page: usize) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for call in 0..1000 {
            bench.audit_was(if call == 0 {
                Duration::from_secs(1000)
            } else {
                AUDIT_GAP
            });
            let audit = self.session.audit_pages(LEASE, page).expect("answers");
            for (kind, count) in audit.repairs {
                *all.entry(kind).or_default() += count;
            }
            if bench.ask::<u64>(&format!("HEXISTS {NS}:audit open")) == 0 {
                return all;
            }
        }
        panic!("the walk comes to no end");
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        let taken = self.session.take(100, 1 << 20).expect("takes");
        taken.into_iter().map(entry).collect()
    }

    pub(super) fn intake(&self) -> Intake {
        let entries = self.entries();
        self.session.intake(&entries, &DEFAULTS).expect("takes in")
    }

    pub(super) fn claim(&self, n: usize) -> Vec<Flight> {
        let claim = self.session.claim(n, false).expect("claims");
        claim.jobs.into_iter().map(|flight| *flight).collect()
    }

    pub(super) fn claim_one(&self) -> Flight {
        let mut flights = self.claim(1);
        assert_eq!(flights.len(), 1, "one job is ready");
        flights.remove(0)
    }

    /// The flight's next write, as a step makes it.
    pub(super) fn write(&self, flight: &mut Flight, write: &Write) -> Written {
        let seq = flight.number(write);
        self.session.write(flight, seq, write).expect("answers")
    }

    pub(super) fn submitted(&self, flight: &mut Flight, request: &str) -> Written {
        let write = accepted(flight, request);
        self.write(flight, &write)
    }

    pub(super) fn end(&self, flight: &mut Flight, state: EndState) -> Written {
        let write = ending(flight, state);
        self.write(flight, &write)
    }

    /// As a process that is gone: marked dead, its jobs taken back.
    pub(super) fn dies(&self, heir: &Instance, process_gone: bool) -> usize {
        self.dies_with(heir, process_gone, None)
    }

    /// The same, with what its step file says of its claims: tokens, each with whether it was acting.
    pub(super) fn dies_with(
        &self,
        heir: &Instance,
        process_gone: bool,
        steps: Option<&[(&Token, bool)]>,
    ) -> usize {
        let steps = steps.map(|steps| {
            let rows = steps
                .iter()
                .map(|(token, acting)| (token.0.to_string(), *acting));
            steps_text(&rows.collect::<Vec<_>>())
        });
        let name = self.name();
        let (_, at) = heir
            .session
            .instances()
            .expect("answers")
            .into_iter()
            .find(|(instance, _)| *instance == name)
            .expect("it lives");
        let lease = if process_gone {
            Duration::from_secs(60)
        } else {
            Duration::ZERO
        };
        let buried = (heir.session).bury(&name, at, lease, process_gone, steps.as_deref());
        assert_eq!(buried, Ok(true));
        heir.session.take_back(&name).expect("answers")
    }
}

pub(super) fn entry(taken: Taken) -> Entry {
    let Taken { raw, cut } = taken;
    let verdict = match &cut {
        Some(cut) => Err(Box::new(spec::Invalid::huge(cut.length))),
        None => spec::parse(&raw, None),
    };
    let id = match &verdict {
        Ok(spec) => spec.id.clone(),
        Err(invalid) => invalid.id.clone(),
    };
    Entry {
        raw,
        cut,
        id: id.unwrap_or_else(made_id),
        verdict,
    }
}

/// What a step does when fal has accepted.
pub(super) fn accepted(flight: &mut Flight, request: &str) -> Write {
    flight.attempt += 1;
    flight.phase = Phase::Polling;
    flight.request = Some(RequestId(request.into()));
    Write::Submitted {
        request: RequestId(request.into()),
        path: None,
        attempt: flight.attempt,
        event: flight.event("submitted"),
    }
}

pub(super) fn completed(flight: &mut Flight) -> Write {
    flight.phase = Phase::Delivering;
    flight.charged = crate::job::Charged::Yes;
    flight.result = Some("{}".into());
    Write::Save {
        patch: Patch::default()
            .set("phase", "delivering")
            .set("charged", "yes")
            .set("result", "{}")
            .stamp("completed_at")
            .del(&["error", "kind", "crashes"])
            .event(flight.event("completed")),
        count: Some("counted"),
        large: None,
    }
}

pub(super) fn retrying(flight: &Flight, wait: Duration) -> Write {
    let mut tried = flight.tried.clone();
    let mut patch = Patch::default()
        .set("attempt", flight.attempt.to_string())
        .del(&["request_id", "path", "doubt"])
        .event(flight.event("retrying"));
    if let Some(old) = &flight.request {
        tried = format!("{tried} {old}").trim().to_owned();
        patch = patch.set("tried", tried);
    }
    Write::Later {
        wait,
        known: flight.request.clone(),
        patch,
    }
}

pub(super) fn ending(flight: &Flight, state: EndState) -> Write {
    let (name, kind) = match state {
        EndState::Done => ("done", None),
        EndState::Dead => ("failed", Some("unavailable")),
        EndState::Cancelled => ("cancelled", Some("cancelled")),
    };
    let mut event: Event = flight.event(name);
    event.since = Some(flight.queued_at);
    Write::End {
        state,
        patch: Patch::default()
            .set("charged", "unknown")
            .set_some("kind", kind)
            .event(event),
    }
}

/// Between an instance and Redis.
pub(super) struct Proxy {
    port: u16,
    mode: AtomicU8,
    late: Mutex<Vec<Vec<u8>>>,
    redis: u16,
}

const PASS: u8 = 0;
const LOSE: u8 = 1;
const HOLD: u8 = 2;

impl Proxy {
    fn start(redis: u16) -> Arc<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let proxy = Arc::new(Proxy {
            port: listener.local_addr().expect("bound").port(),
            mode: AtomicU8::new(PASS),
            late: Mutex::default(),
            redis,
        });
        let shared = Arc::downgrade(&proxy);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Some(proxy) = shared.upgrade() else {
                    return;
                };
                let _ = client.set_nodelay(true);
                let Ok(server) = TcpStream::connect(("127.0.0.1", proxy.redis)) else {
                    continue;
                };
                let _ = server.set_nodelay(true);
                let there = (
                    client.try_clone().expect("clone"),
                    server.try_clone().expect("clone"),
                );
                let other = proxy.clone();
                std::thread::spawn(move || proxy.pump(there.0, there.1, HOLD));
                std::thread::spawn(move || other.pump(server, client, LOSE));
            }
        });
        proxy
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, fault: u8) {
        let mut piece = [0; 64 << 10];
        while let Ok(n) = from.read(&mut piece)
            && n > 0
        {
            let hit = self
                .mode
                .compare_exchange(fault, PASS, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
            if hit {
                if fault == HOLD {
                    self.late.lock().expect("whole").push(piece[..n].to_vec());
                }
                break;
            }
            if to.write_all(&piece[..n]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// The next answer is lost after Redis did what was asked.
    pub(super) fn lose_an_answer(&self) {
        self.mode.store(LOSE, Ordering::Release);
    }

    /// The next request stays in a socket until [`Proxy::release`]; the caller sees a broken connection.
    pub(super) fn hold_a_request(&self) {
        self.mode.store(HOLD, Ordering::Release);
    }

    /// A fault that nothing has met is withdrawn.
    pub(super) fn pass(&self) {
        self.mode.store(PASS, Ordering::Release);
    }

    /// What was held reaches Redis now. Its answer goes nowhere.
    pub(super) fn release(&self) -> usize {
        let late = std::mem::take(&mut *self.late.lock().expect("whole"));
        for bytes in &late {
            let mut server = TcpStream::connect(("127.0.0.1", self.redis)).expect("connects");
            server.write_all(bytes).expect("writes");
            let mut piece = [0; 4096];
            let n = server.read(&mut piece).expect("answers");
            let answer = String::from_utf8_lossy(&piece[..n]);
            assert!(!answer.starts_with('-'), "{answer}");
        }
        late.len()
    }

    /// Whether the fault was used up.
    pub(super) fn is_passing(&self) -> bool {
        self.mode.load(Ordering::Acquire) == PASS
    }
}
