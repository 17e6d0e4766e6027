//! The headers of an answer as ureq read them. Few are ever asked for, so none is copied out of it.

use std::fmt;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};

/// Headers of an answer.
#[derive(Clone, Default, PartialEq)]
pub struct Headers(HeaderMap);

impl Headers {
    pub(super) fn new(map: HeaderMap) -> Headers {
        Headers(map)
    }

    /// The first value of this name, whatever the case of either; `None` also for what is no text.
    pub fn get(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.0.get(name)?.as_bytes()).ok()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts `instead` in the place of `secret` in every value.
    pub(crate) fn strike_out(&mut self, secret: &str, instead: &str) {
        let long = |value: &&mut HeaderValue| value.len() >= secret.len();
        for value in self.0.values_mut().filter(long) {
            let text = String::from_utf8_lossy(value.as_bytes());
            if text.contains(secret) {
                let clean = HeaderValue::from_str(&text.replace(secret, instead));
                *value = clean.unwrap_or(HeaderValue::from_static(""));
            }
        }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What cannot be a header is left out.
impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(list: I) -> Headers {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            let name = HeaderName::from_bytes(name.as_ref().as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value.as_ref())) {
                map.append(name, value);
            }
        }
        Headers(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_in_any_case_and_its_first_value_counts() {
        let headers: Headers = [("X-Fal-Error-Type", "a"), ("x-fal-error-type", "b")]
            .into_iter()
            .collect();
        assert_eq!(headers.get("x-fal-error-type"), Some("a"));
        assert_eq!(headers.get("X-FAL-ERROR-TYPE"), Some("a"));
        assert_eq!(headers.get("retry-after"), None);
    }

    #[test]
    fn a_secret_is_struck_out_of_every_value() {
        let list = [
            ("a", "x:s3cr3t-s3cr3t"),
            ("b", "none"),
            ("a", "ä s3cr3t-s3cr3t"),
        ];
        let mut headers: Headers = list.into_iter().collect();
        headers.strike_out("s3cr3t-s3cr3t", "***");
        assert!(!format!("{headers:?}").contains("s3cr3t"), "{headers:?}");
        assert_eq!(headers.get("a"), Some("x:***"));
        assert_eq!(headers.get("b"), Some("none"));
    }
}
