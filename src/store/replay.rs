//! Writes that a dead process left in its step file are made again, byte for byte as it would have made
//! them: each names its claim's token and is idempotent, so one that Redis took already changes nothing.

use super::*;

/// What became of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Replayed {
    /// It stands, or somebody knows better.
    Settled,
    /// The record it belongs to is not there; with the request id that it named.
    Gone(Option<Paid>),
    /// Nobody needs this request: it is to be cancelled at fal.
    Cancel(Paid),
    /// It cannot be made any more: the script of the version that wrote it is not known.
    Unknown,
}

/// A request at fal that a write names.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Paid {
    pub(crate) job: String,
    pub(crate) request: RequestId,
    pub(crate) path: Option<String>,
    pub(crate) model: Option<String>,
}

impl Session {
    /// Makes the write again that `script` names and `packed` holds.
    pub(crate) fn replay(&self, script: &str, packed: &[u8]) -> Result<Replayed, Fault> {
        let (Some(mut args), Some(current)) = (unpack(packed), self.store.scripts.by_name(script))
        else {
            return Ok(Replayed::Unknown);
        };
        let paid = (script == "submitted").then(|| paid(&args)).flatten();
        let known = args
            .get(1)
            .is_some_and(|sha| sha == current.sha().as_bytes());
        let make = |args: &[Vec<u8>]| {
            let mut cmd = Cmd::new();
            for arg in args {
                cmd.arg(arg);
            }
            cmd
        };
        let answer = if known {
            let cmd = make(&args);
            self.repeated(|_| self.eval(current, &cmd.get_packed_command()))
        } else {
            // Written by another version: Redis may still have its script. Where it has not, a request id
            // is too dear to lose, and the arguments of its script do not change.
            let cmd = make(&args);
            let unknown_is_nil = |answer| match answer {
                Err(error) if link::is_noscript(&error) => Ok(Value::Nil),
                answer => answer,
            };
            match self.repeated(|_| unknown_is_nil(self.call_once(&cmd))) {
                Ok(Value::Nil) => {
                    if paid.is_none() {
                        return Ok(Replayed::Unknown);
                    }
                    if let Some(sha) = args.get_mut(1) {
                        *sha = current.sha().as_bytes().to_vec();
                    }
                    let cmd = make(&args);
                    self.repeated(|_| self.eval(current, &cmd.get_packed_command()))
                }
                answer => answer,
            }
        };
        // The word comes first; what follows it is of no use to anybody any more. No list: it stands.
        let Value::Array(said) = answer? else {
            return Ok(Replayed::Settled);
        };
        let word: String = read(said.into_iter().next().unwrap_or(Value::Nil))?;
        Ok(match (word.as_str(), paid) {
            ("gone", paid) => Replayed::Gone(paid),
            ("cancel" | "other", Some(paid)) => Replayed::Cancel(paid),
            (_, _) => Replayed::Settled,
        })
    }
}

/// What the arguments of `submitted` name (see the head of that script).
fn paid(args: &[Vec<u8>]) -> Option<Paid> {
    let text = |at: usize| String::from_utf8(args.get(at)?.clone()).ok();
    let keys: usize = text(2)?.parse().ok()?;
    let argv = |number: usize| text(2 + keys + number);
    let mut model = None;
    let mut at = 7;
    while let (Some(name), Some(value)) = (argv(at), argv(at + 1)) {
        if name == "model" {
            model = Some(value);
        }
        at += 2;
    }
    Some(Paid {
        job: argv(1)?,
        request: RequestId(argv(4)?.into()),
        path: argv(5).filter(|path| !path.is_empty()),
        model,
    })
}

/// The arguments of a packed command: `*3`, then `$5` and five bytes for each.
fn unpack(packed: &[u8]) -> Option<Vec<Vec<u8>>> {
    fn number(rest: &mut &[u8], mark: u8) -> Option<usize> {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let (line, behind) = rest.split_at(end);
        *rest = &behind[2..];
        let (first, digits) = line.split_first()?;
        if *first != mark {
            return None;
        }
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
    let mut rest = packed;
    let n = number(&mut rest, b'*')?;
    let mut args = Vec::new();
    for _ in 0..n {
        let len = number(&mut rest, b'$')?;
        if rest.len() < len + 2 {
            return None;
        }
        args.push(rest[..len].to_vec());
        rest = &rest[len + 2..];
    }
    Some(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_command_is_read_back_whatever_its_bytes() {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg("sha")
            .arg(1)
            .arg("key")
            .arg(&b"\r\n\0\xff$3\r\n"[..]);
        let args = unpack(&cmd.get_packed_command()).unwrap();
        let expected: [&[u8]; 5] = [b"EVALSHA", b"sha", b"1", b"key", b"\r\n\0\xff$3\r\n"];
        assert_eq!(args, expected);
        let packed = cmd.get_packed_command();
        for cut in 0..packed.len() {
            assert_eq!(unpack(&packed[..cut]), None);
        }
    }
}
