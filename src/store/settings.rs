//! What a Redis says of itself that decides whether jobs are safe in it: `run` asks at its start, `check` at
//! any time.

use super::link::Fault;
use super::{Session, read};

/// The oldest that is tested (contract section 8).
const OLDEST: [u64; 3] = [6, 0, 16];
/// In every text about an older one.
pub(super) const TOO_OLD: &str = "6.0.16 or newer is needed, or Valkey";

/// Its settings; what it does not tell, as services of others may, is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// `maxmemory_policy`.
    pub(crate) policy: String,
    /// `aof_enabled`.
    pub(crate) aof: String,
}

impl Settings {
    /// Of what `INFO` says.
    fn read(about: &str) -> Settings {
        let said = |name: &str| {
            let mut pairs = about.lines().filter_map(|line| line.split_once(':'));
            let found = pairs.find(|(found, _)| *found == name);
            found.map_or("", |(_, value)| value.trim()).to_owned()
        };
        Settings {
            policy: said("maxmemory_policy"),
            aof: said("aof_enabled"),
        }
    }

    /// Whether it may throw keys away, now or once it has a `maxmemory`.
    pub(crate) fn evicts(&self) -> bool {
        evicts(&self.policy)
    }

    /// Whether it writes nothing down between snapshots.
    pub(crate) fn has_no_aof(&self) -> bool {
        self.aof == "0"
    }
}

impl Session {
    /// One round trip: Redis 6 takes one section at a time, so it is asked for all.
    pub(crate) fn settings(&self) -> Result<Settings, Fault> {
        let about: String = read(self.command(&redis::cmd("INFO"))?)?;
        Ok(Settings::read(&about))
    }
}

/// Whether a server with this `maxmemory-policy` may throw keys away.
pub fn evicts(policy: &str) -> bool {
    !matches!(policy, "noeviction" | "")
}

/// Whether a `redis_version` is older than what is tested. What is no version is not: who hides it may be new.
pub fn is_too_old(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit());
        part[..digits.unwrap_or(part.len())].parse::<u64>().ok()
    });
    let Some(major) = parts.next().flatten() else {
        return false;
    };
    let mut rest = || parts.next().flatten().unwrap_or(0);
    [major, rest(), rest()] < OLDEST
}

/// What to say of it.
pub(super) fn too_old(version: &str) -> String {
    format!("version {version}, {TOO_OLD}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_below_the_oldest_tested_are_too_old() {
        for (version, old) in [
            ("2.8", true),
            ("5.0.14", true),
            ("6.0.15", true),
            ("6.0.9", true),
            ("6.0.16", false),
            ("6.0.16-debian", false),
            ("6.2.0-rc1", false),
            ("7.2.4", false),
            ("10.0.0", false),
            ("255.255.255", false),
            ("", false),
            ("unknown", false),
        ] {
            assert_eq!(is_too_old(version), old, "{version:?}");
        }
    }

    #[test]
    fn what_a_server_does_not_tell_is_no_trouble() {
        let settings = Settings::read("# Server\r\nredis_version:7.0.15\r\n");
        assert_eq!(settings, Settings::default());
        assert!(!settings.evicts() && !settings.has_no_aof());
        let said =
            "maxmemory_policy:volatile-ttl\r\naof_enabled:0\r\naof_rewrite_in_progress:0\r\n";
        let settings = Settings::read(said);
        assert!(settings.evicts() && settings.has_no_aof());
        let settings = Settings::read("maxmemory_policy:noeviction\r\naof_enabled:1\r\n");
        assert!(!settings.evicts() && !settings.has_no_aof());
    }
}
