//! A yardstick for what a job costs Redis: the least that scripts need to keep a job's record through a crash. Each
//! step of a job is one script, with the owner's token looked at, the record written and its event added; 3.14 scripts
//! and 26.1 commands inside of them a job, six of them events. What such a worker must know besides is missing: limits,
//! turns, repeats, takeovers, a full Redis, a Redis that forgot. Microseconds differ from machine to machine;
//! what the worker's scripts cost is told beside these, of the same machine and hour.

use redis::{Connection, Script};

/// Jobs a claim, and an intake.
const CLAIM: usize = 8;
const INTAKE: u64 = 100;

const EVENTS: &str = "floor:events";
const READY: &str = "floor:ready";
const CLAIMS: &str = "floor:claims";

/// The scripts, as one thread's connection has them.
pub struct Records {
    intake: Script,
    claim: Script,
    submitted: Script,
    save: Script,
    end: Script,
}

/// A job that was claimed.
pub struct Claimed {
    pub number: u64,
    token: String,
    user: String,
}

impl Records {
    pub fn new() -> Records {
        let script = |code: &str| Script::new(&format!("{NOW}{code}"));
        Records {
            intake: script(INTAKE_LUA),
            claim: script(CLAIM_LUA),
            submitted: script(SUBMITTED_LUA),
            save: script(SAVE_LUA),
            end: script(END_LUA),
        }
    }

    /// The next jobs: those that stand ready, else of those that `next` gives, which come in first. None at the end.
    pub fn claim(
        &self,
        con: &mut Connection,
        next: impl Fn(u64) -> std::ops::Range<u64>,
    ) -> Vec<Claimed> {
        let token = format!("{:016x}", fastrand::u64(..));
        loop {
            let mut claim = self.claim.key(READY);
            let found: Vec<(String, String, String)> = claim
                .key(CLAIMS)
                .key(EVENTS)
                .arg(CLAIM)
                .arg(&token)
                .invoke(con)
                .expect("a claim");
            if !found.is_empty() {
                let claimed = found.into_iter().map(|(id, user, spec)| {
                    assert!(spec.starts_with('{'), "{spec}");
                    Claimed {
                        number: id.strip_prefix("job-").expect("ours").parse().unwrap(),
                        token: token.clone(),
                        user,
                    }
                });
                return claimed.collect();
            }
            let coming = next(INTAKE);
            if coming.is_empty() {
                return Vec::new();
            }
            let mut intake = self.intake.key(READY);
            intake.key(EVENTS);
            for number in coming {
                intake
                    .arg(format!("job-{number}"))
                    .arg(crate::common::entry(number))
                    .arg(1000 + number);
            }
            intake.invoke::<()>(con).expect("an intake");
        }
    }

    pub fn submitted(&self, con: &mut Connection, job: &Claimed, request: &str) {
        let mut call = self.submitted.key(job.record());
        let call = call.key(EVENTS).arg(job.id()).arg(&job.token);
        let written: i64 = call
            .arg(request)
            .arg(&job.user)
            .invoke(con)
            .expect("a write");
        assert!(written > 0);
    }

    pub fn save(
        &self,
        con: &mut Connection,
        job: &Claimed,
        request: &str,
        result: &str,
        files: &str,
    ) {
        let mut call = self.save.key(job.record());
        let call = call.key(EVENTS).arg(job.id()).arg(&job.token);
        let call = call.arg(request).arg(&job.user).arg(result).arg(files);
        let written: i64 = call.invoke(con).expect("a write");
        assert!(written > 0);
    }

    pub fn end(
        &self,
        con: &mut Connection,
        job: &Claimed,
        messages: &str,
        sent: &str,
        files: &str,
    ) {
        let mut call = self.end.key(job.record());
        let call = call.key(EVENTS).key(CLAIMS).key(job.spec());
        let call = call.arg(job.id()).arg(&job.token).arg(&job.user);
        let call = call.arg(messages).arg(sent).arg(files);
        let written: i64 = call.invoke(con).expect("a write");
        assert!(written > 0);
    }
}

impl Claimed {
    fn id(&self) -> String {
        format!("job-{}", self.number)
    }

    fn record(&self) -> String {
        format!("floor:job:job-{}", self.number)
    }

    fn spec(&self) -> String {
        format!("floor:spec:job-{}", self.number)
    }
}

const NOW: &str = "
local t = redis.call('TIME')
local now = t[1] .. string.sub('00000' .. t[2], -6, -4)
";

const INTAKE_LUA: &str = "
for i = 1, #ARGV, 3 do
  local id, user = ARGV[i], ARGV[i + 2]
  redis.call('HSET', 'floor:job:' .. id, 'v', '1', 'state', 'queued', 'attempt', '0', 'life', '1', 'queued_at', now,
    'model', 'fal-ai/flux/dev', 'user', user, 'chat', user, 'priority', 'default', 'max_attempts', '3')
  redis.call('SET', 'floor:spec:' .. id, ARGV[i + 1])
  redis.call('LPUSH', KEYS[1], id)
  redis.call('XADD', KEYS[2], '*', 'event', 'queued', 'job', id, 'user', user, 'model', 'fal-ai/flux/dev', 'at', now,
    'attempt', '0')
end";

const CLAIM_LUA: &str = "
local jobs = {}
for i = 1, tonumber(ARGV[1]) do
  local id = redis.call('RPOP', KEYS[1])
  if not id then break end
  local record = 'floor:job:' .. id
  local r = redis.call('HMGET', record, 'user', 'model', 'attempt', 'max_attempts', 'queued_at', 'expires_at')
  redis.call('HSET', record, 'state', 'running', 'phase', 'submitting', 'token', ARGV[2], 'seq', '0', 'worker', 'floor',
    'started_at', now)
  redis.call('SADD', KEYS[2], id)
  redis.call('XADD', KEYS[3], '*', 'event', 'started', 'job', id, 'user', r[1], 'model', r[2], 'at', now, 'attempt',
    r[3])
  jobs[i] = {id, r[1], redis.call('GET', 'floor:spec:' .. id)}
end
return jobs";

const SUBMITTED_LUA: &str = "
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'phase', 'polling', 'request_id', ARGV[3], 'attempt', '1', 'submitted_at', now, 'seq', '1')
redis.call('XADD', KEYS[2], '*', 'event', 'submitted', 'job', ARGV[1], 'user', ARGV[4], 'model', 'fal-ai/flux/dev',
  'at', now, 'attempt', '1', 'request_id', ARGV[3])
return 1";

const SAVE_LUA: &str = "
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'phase', 'delivering', 'result', ARGV[5], 'charged', 'yes', 'units', '1', 'completed_at',
  now, 'seq', '2')
redis.call('XADD', KEYS[2], '*', 'event', 'completed', 'job', ARGV[1], 'user', ARGV[4], 'model', 'fal-ai/flux/dev',
  'at', now, 'ms', '12', 'attempt', '1', 'request_id', ARGV[3], 'charged', 'yes', 'units', '1', 'files', ARGV[6])
return 1";

const END_LUA: &str = "
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'done', 'ended_at', now, 'message_ids', ARGV[4], 'file_ids', ARGV[5],
  'file_kinds', '[\"0:photo\"]', 'sent_to', ARGV[3], 'seq', '3')
redis.call('XADD', KEYS[2], '*', 'event', 'delivered', 'job', ARGV[1], 'user', ARGV[3], 'model', 'fal-ai/flux/dev',
  'at', now, 'ms', '14', 'attempt', '1', 'message_ids', ARGV[4], 'file_ids', ARGV[5])
redis.call('XADD', KEYS[2], '*', 'event', 'done', 'job', ARGV[1], 'user', ARGV[3], 'model', 'fal-ai/flux/dev',
  'at', now, 'ms', '15', 'attempt', '1', 'charged', 'yes', 'units', '1', 'message_ids', ARGV[4], 'file_ids', ARGV[5],
  'files', ARGV[6])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[4])
redis.call('EXPIRE', KEYS[1], 86400)
return 1";
