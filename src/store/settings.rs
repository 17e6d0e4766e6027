//! What a Redis says of itself that decides whether it can be worked with, for `run` and for `check`.

/// The oldest that is tested (contract section 8).
const OLDEST: [u64; 3] = [6, 0, 16];
/// In every text about an older one.
pub(super) const TOO_OLD: &str = "6.0.16 or newer is needed, or Valkey";

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
}
