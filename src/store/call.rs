//! One call of a script: how it is put together, and how a session carries it out, once more on a fresh
//! connection if the first one broke. What is away, and what came of it, is noted here and nowhere else.

use super::pack::Pack;
use super::wire::{Args, Mark, Words};
use super::*;
use crate::report;

/// How often a script that is not in Redis's cache is put there within one call.
const LOADS: usize = 8;

/// Builder of one EVALSHA.
pub(crate) struct Call<'a> {
    pub(super) script: &'a Script,
    pub(super) cmd: Words,
    /// Where the arguments begin.
    args: Mark,
    /// Where the patch begins.
    patch: Mark,
}

/// What goes into a call of several, see [`Session::write_together`].
pub(crate) struct Part {
    cmd: Words,
    args: Mark,
    patch: Mark,
}

impl Part {
    #[cfg(test)]
    pub(crate) fn nothing() -> Part {
        let cmd = Words::new();
        let at = cmd.mark();
        Part {
            cmd,
            args: at,
            patch: at,
        }
    }

    pub(super) fn patch_args(&self) -> Args<'_> {
        self.cmd.since(self.patch)
    }
}

impl<'a> Call<'a> {
    pub(super) fn new(script: &'a Script, keys: &[&str]) -> Call<'a> {
        let mut cmd = Words::new();
        let guard = script.guard();
        cmd.arg("EVALSHA")
            .arg(script.sha())
            .arg(keys.len() + usize::from(guard.is_some()));
        for key in keys.iter().copied().chain(guard) {
            cmd.arg(key);
        }
        Call {
            script,
            args: cmd.mark(),
            patch: cmd.mark(),
            cmd,
        }
    }

    /// Which script, and the command byte for byte: for the step file.
    pub(crate) fn to_bytes(&self) -> (&'static str, Vec<u8>) {
        (self.script.name(), self.packed().to_vec())
    }

    /// Which script.
    pub(crate) fn script_name(&self) -> &'static str {
        self.script.name()
    }

    /// The whole command as it goes over the wire.
    pub(crate) fn packed(&self) -> &[u8] {
        self.cmd.bytes()
    }

    /// To go into a call of several.
    pub(crate) fn into_part(self) -> Part {
        let Call {
            cmd, args, patch, ..
        } = self;
        Part { cmd, args, patch }
    }

    /// Appends the arguments of a part, and before them their number.
    pub(super) fn part(mut self, part: &Part) -> Self {
        let args = part.cmd.since(part.args);
        self.cmd.arg(args.count()).packed_args(args);
        self
    }

    pub(super) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }

    /// One argument of several strings.
    pub(super) fn pack(mut self, texts: &[&str]) -> Self {
        let room = texts.iter().map(|text| text.len() + 5).sum();
        let mut pack = Pack::with_capacity(room);
        for text in texts {
            pack.add(text);
        }
        self.cmd.arg(pack.as_bytes());
        self
    }

    /// Appends the patch. `gone`: fields to delete beside the patch's own. `may_have`: whether the record may hold
    /// a field; others are not deleted.
    pub(super) fn patch(
        mut self,
        patch: &Patch,
        gone: &[&str],
        may_have: impl Fn(&str) -> bool,
    ) -> Self {
        self.patch = self.cmd.mark();
        add_patch(&mut self.cmd, patch, gone, may_have);
        self
    }

    /// The arguments of the patch, which is the last part of the call.
    pub(super) fn patch_args(&self) -> Args<'_> {
        self.cmd.since(self.patch)
    }

    pub(super) fn fields(mut self, fields: &[(&'static str, String)]) -> Self {
        add_fields(&mut self.cmd, fields);
        self
    }
}

fn add_patch(cmd: &mut Words, patch: &Patch, gone: &[&str], may_have: impl Fn(&str) -> bool) {
    debug_assert!(
        (patch.del.iter())
            .all(|name| patch.stamp != Some(name) && patch.set.iter().all(|(set, _)| set != name)),
        "a field both set and deleted: {patch:?}"
    );
    let mut pack = Pack::with_capacity(512);
    pack.add(patch.stamp.unwrap_or(""));
    for (name, value) in &patch.set {
        pack.pair(name, value);
    }
    cmd.arg(pack.as_bytes());
    pack.clear();
    for name in patch.del.iter().chain(gone).filter(|name| may_have(name)) {
        pack.add(name);
    }
    cmd.arg(pack.as_bytes());
    for event in &patch.events {
        let mut digits = itoa::Buffer::new();
        pack.clear();
        pack.add(event.since.map_or("", |at| digits.format(at.0)));
        pack.add(event.name);
        for (name, value) in &event.fields {
            pack.pair(name, value);
        }
        cmd.arg(pack.as_bytes());
    }
}

pub(super) fn add_fields(cmd: &mut Words, fields: &[(&'static str, String)]) {
    cmd.arg(fields.len());
    for (name, value) in fields {
        cmd.arg(*name).arg(value);
    }
}

/// Reads a script's answer; an answer of another shape is a bug or another version's script.
pub(super) fn read<T: redis::FromRedisValue>(value: Value) -> Result<T, Fault> {
    redis::from_redis_value(value)
        .map_err(|error| Fault::Refused(format!("answer of an unknown shape: {error}")))
}

impl Session {
    /// The store behind it.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// One command on this thread's connection. Away-ness is noted here, once.
    pub(super) fn call_once(&self, cmd: &Cmd) -> Result<Value, redis::RedisError> {
        self.call_packed(&cmd.get_packed_command())
    }

    fn call_packed(&self, packed: &[u8]) -> Result<Value, redis::RedisError> {
        let mut held = self.held.borrow_mut();
        let link = held.as_mut().expect("checked out by the caller");
        let began = Instant::now();
        let answer = link.call_packed(packed);
        if let Err(error) = &answer
            && link::breaks(error)
        {
            *held = None; // never used again
            if error.is_timeout() {
                self.store.health.distrust(began);
            }
        }
        answer
    }

    /// `after`: a connection that was opened later, for the repeat of a call that broke one.
    pub(super) fn check_out(&self, after: Option<Instant>) -> Result<(), Fault> {
        let store = &self.store;
        if store.health.is_away() && !self.probes {
            return Err(Fault::Away("no answer yet".to_owned()));
        }
        let mut held = self.held.borrow_mut();
        if let Some(link) = held.as_mut()
            && r2d2::ManageConnection::is_valid(&store.opener, link).is_ok()
        {
            return Ok(());
        }
        *held = None;
        let mut link = link::check_out(&store.pool, &store.health, after)?;
        if let Some(answer) = self.answer {
            link.set_answer(answer)
                .map_err(|error| link::fault(&error))?;
        }
        *held = Some(link);
        Ok(())
    }

    /// One command; when the connection breaks under it, once more on a fresh one. Only for what may
    /// be repeated. Nothing here may be a blocking command.
    pub(crate) fn command(&self, cmd: &Cmd) -> Result<Value, Fault> {
        self.repeated(|_| self.call_once(cmd))
    }

    /// Runs `call(is a repeat)`, and once more if it broke the connection.
    pub(super) fn repeated(
        &self,
        call: impl FnMut(bool) -> Result<Value, redis::RedisError>,
    ) -> Result<Value, Fault> {
        let began = Instant::now();
        let answer = self.tried(call);
        if self.probes {
            self.store.health.probed(answer.is_ok().then_some(began));
        }
        answer
    }

    fn tried(
        &self,
        mut call: impl FnMut(bool) -> Result<Value, redis::RedisError>,
    ) -> Result<Value, Fault> {
        let health = &self.store.health;
        let mut first: Option<Fault> = None;
        let at_first = Instant::now();
        let (mut began, mut broke) = (at_first, None);
        loop {
            if let Err(fault) = self.check_out(broke) {
                let fault = first.unwrap_or(fault);
                if let Some(why) = fault.passing()
                    && !health.is_away()
                {
                    health.lost(why, at_first);
                }
                return Err(fault);
            }
            match call(first.is_some()) {
                Ok(value) => {
                    health.back(began);
                    return Ok(value);
                }
                Err(error) => {
                    report::redis_error();
                    let fault = link::fault(&error);
                    if link::breaks(&error) && first.is_none() {
                        first = Some(fault);
                        began = Instant::now();
                        broke = Some(began);
                        continue;
                    }
                    if let Some(why) = fault.passing() {
                        health.lost(why, at_first);
                    }
                    return Err(fault);
                }
            }
        }
    }

    pub(super) fn script(&self, call: &Call<'_>) -> Result<Value, Fault> {
        self.repeated(|_| self.eval(call.script, call.packed()))
    }

    /// A script's call, packed.
    pub(super) fn eval(&self, script: &Script, packed: &[u8]) -> Result<Value, redis::RedisError> {
        let mut answer = self.call_packed(packed);
        // Somebody may flush the scripts again in between.
        for _ in 0..LOADS {
            match &answer {
                Err(error) if link::is_noscript(error) => {
                    self.call_once(redis::cmd("SCRIPT").arg("LOAD").arg(script.code()))?;
                    answer = self.call_packed(packed);
                }
                Ok(_) | Err(_) => break,
            }
        }
        answer
    }

    pub(super) fn word(&self, call: &Call<'_>) -> Result<String, Fault> {
        let parts = match self.script(call)? {
            Value::Array(parts) => parts,
            // Done, and nothing to say but when.
            time => {
                self.store.learn_time(read(time)?);
                return Ok("ok".to_owned());
            }
        };
        let mut parts = parts.into_iter();
        let mut part = || parts.next().unwrap_or(Value::Nil);
        let word = read(part())?;
        part(); // the record's request: the job's next claim brings all that is known of it
        self.store.learn_time(read(part())?);
        if let Some(silence) = read::<Option<i64>>(part())? {
            self.store.heard_of_silence(silence);
        }
        Ok(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_cluster_each_call_names_a_key_that_never_exists() {
        let scripts = Scripts::new(Some("{fal}:never"));
        let call = Call::new(&scripts.beat, &["{fal}:a", "{fal}:b"]).arg("x");
        let text = String::from_utf8(call.packed().to_vec()).expect("text");
        let words: Vec<&str> = text.split("\r\n").skip(2).step_by(2).collect();
        assert_eq!(words[2..], ["3", "{fal}:a", "{fal}:b", "{fal}:never", "x"]);
        let scripts = Scripts::new(None);
        let call = Call::new(&scripts.beat, &["a"]);
        let text = String::from_utf8(call.packed().to_vec()).expect("text");
        assert!(text.ends_with("$1\r\n1\r\n$1\r\na\r\n"), "{text}");
    }
}
