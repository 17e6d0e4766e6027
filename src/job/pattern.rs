//! Patterns of models, such as `fal-ai/veo*`: what an operator says of some of them.

/// A text in which `*` stands for any characters, also none and also `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// `None` unless it is made of what a model's name is made of, and `*`; 256 bytes at most.
    pub fn new(text: &str) -> Option<Pattern> {
        let fits = (1..=256).contains(&text.len())
            && (text.bytes()).all(|b| b.is_ascii_alphanumeric() || b"._-/*".contains(&b));
        fits.then(|| Pattern(text.to_owned()))
    }

    /// Whether it describes this model.
    pub fn matches(&self, model: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = model.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        // The leftmost place of each piece leaves the most for the pieces behind it.
        for part in parts {
            let Some((_, behind)) = rest.split_once(part) else {
                return false;
            };
            rest = behind;
        }
        rest.ends_with(last)
    }
}

/// What the first pattern that matches says.
pub fn first_match<T: Copy>(patterns: &[(Pattern, T)], model: &str) -> Option<T> {
    let found = patterns.iter().find(|(pattern, _)| pattern.matches(model));
    found.map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, model: &str) -> bool {
        Pattern::new(pattern).expect("a pattern").matches(model)
    }

    #[test]
    fn a_star_stands_for_any_characters_and_the_rest_for_itself() {
        for (pattern, model) in [
            ("fal-ai/veo3", "fal-ai/veo3"),
            ("fal-ai/veo*", "fal-ai/veo"),
            ("fal-ai/veo*", "fal-ai/veo3/image-to-video"),
            ("*", "a/b"),
            ("*/image-to-video", "fal-ai/veo3/image-to-video"),
            ("fal-ai/*/*video*", "fal-ai/kling/v2/text-to-video"),
            ("a*a*b", "aab"),
            ("**b", "b"),
        ] {
            assert!(fits(pattern, model), "{pattern} {model}");
        }
        for (pattern, model) in [
            ("fal-ai/veo", "fal-ai/veo3"),
            ("fal-ai/veo*", "fal-ai/Veo3"),
            ("fal-ai/veo*", "x/fal-ai/veo3"),
            ("ab*ba", "aba"),
            ("*video", "fal-ai/video/x"),
            ("a*b*c", "acb"),
        ] {
            assert!(!fits(pattern, model), "{pattern} {model}");
        }
        for text in ["", "a b", "a,b", "a=b", "[ab]", "é"] {
            assert_eq!(Pattern::new(text), None, "{text}");
        }
    }

    #[test]
    fn the_first_pattern_that_matches_counts() {
        let pattern = |text| Pattern::new(text).expect("a pattern");
        let all = [(pattern("fal-ai/veo3*"), 1), (pattern("fal-ai/*"), 2)];
        assert_eq!(first_match(&all, "fal-ai/veo3/fast"), Some(1));
        assert_eq!(first_match(&all, "fal-ai/flux"), Some(2));
        assert_eq!(first_match(&all, "other/flux"), None);
    }
}
