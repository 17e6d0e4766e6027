//! Collect: the result is fetched at once, since it vanishes at fal within minutes, and recorded
//! together with the intent to deliver it.

use super::{Presence, Worker, inputs, job};
use crate::fal::{self, Found, Handle};
use crate::http::FileHosts;
use crate::job::answer::{Collected, Directed, Item, is_data};
use crate::job::flight::Flight;
use crate::job::inputs::Brought;
use crate::job::spec;
use crate::job::state::{self, FoundSummary, Next};
use crate::report;

/// An input may have thousands of URLs; so many echoes of it are kept in mind.
const ECHOES: usize = 256;
/// Bytes of URLs in an event, which a bot reads with many others: a URL of the longest fits.
const NAMED: usize = 64 << 10;

/// Fetches the result.
pub(super) fn collect(worker: &Worker, flight: &mut Flight) -> Next {
    flight.untouched = false;
    let answer = match (&flight.model, &flight.request) {
        (Some(model), Some(request)) => worker.tools.fal.result(
            model,
            Handle {
                request,
                path: flight.path.as_deref(),
            },
        ),
        _ => Collected::Missing,
    };
    after_result(worker, flight, answer)
}

/// What fal said when it was asked for the result.
pub(super) fn after_result(worker: &Worker, flight: &mut Flight, answer: Collected) -> Next {
    worker.fal_heard(match &answer {
        Collected::Failed(failure) => Presence::of(failure),
        Collected::Output(_) | Collected::NotYet | Collected::Missing => Presence::Answer,
    });
    if let Collected::Failed(failure) = &answer
        && failure.unfetched
    {
        inputs::forget(worker, flight);
    }
    let found = match &answer {
        Collected::Output(output) => summary(worker, flight, &output.json),
        Collected::NotYet | Collected::Missing | Collected::Failed(_) => FoundSummary::default(),
    };
    let policy = &worker.tools.policy;
    let change = state::after_collect(flight, answer, &found, policy, worker.moment());
    worker.record(flight, change)
}

/// A direct call brings its result with its answer.
pub(super) fn after_direct(worker: &Worker, flight: &mut Flight, answer: Directed) -> Next {
    if let Directed::Failed(failure, _) = &answer
        && failure.unfetched
    {
        inputs::forget(worker, flight);
    }
    let found = match &answer {
        Directed::Output(output, _) => summary(worker, flight, &output.json),
        Directed::Failed(..) | Directed::Unknown(..) => FoundSummary::default(),
    };
    worker.heed_cancel(flight);
    let change = state::after_direct(flight, answer, &found, worker.moment());
    worker.record(flight, change)
}

fn summary(worker: &Worker, flight: &mut Flight, json: &str) -> FoundSummary {
    let found = beyond_input(worker, flight, json);
    if flight.target.is_some() {
        warn_of_foreign_hosts(worker, flight, &found.items);
    }
    let summary = FoundSummary {
        items: found.items.len(),
        all_flagged: found.all_flagged,
        files: file_urls(&found.items),
    };
    flight.found = found.items;
    summary
}

/// What the result holds, without what the model only repeats of its input. What that is is found out once, and
/// recorded with the result: a delivery counts its items.
fn beyond_input(worker: &Worker, flight: &mut Flight, json: &str) -> Found {
    if flight.completed_at.is_some() {
        return outputs(flight, json); // fetched once more: its delivery may have begun
    }
    flight.echoes = String::new();
    let found = fal::outputs(json);
    if !found.may_echo {
        return found;
    }
    let Some((input, brought)) = input(worker, flight) else {
        return found;
    };
    let mut echoes = fal::echoes(json, &input, brought);
    echoes.truncate(ECHOES);
    let rest = fal::outputs_but(json, &echoes);
    // A model may give back what it got: then that is its result.
    if echoes.is_empty() || rest.items.is_empty() {
        return found;
    }
    flight.echoes = serde_json::to_string(&echoes).unwrap_or_default();
    rest
}

/// The input of a job that fal has done, and the URLs that were put into it. Nobody waits for a Redis that is
/// away with a result in hand: then nothing is known of it, and the whole result goes out.
fn input(worker: &Worker, flight: &Flight) -> Option<(String, Vec<String>)> {
    if let Some(order) = &flight.order {
        return Some((order.input.get().to_owned(), order.brought.all()));
    }
    if worker.tools.store.health.is_away() {
        return None;
    }
    let entry = worker.session.entry(&flight.id).ok()??;
    let spec = spec::parse(&entry, None).ok()?;
    let brought = match spec.files.is_empty() {
        true => Vec::new(),
        false => {
            let recorded = worker.session.inputs(&flight.id).ok()?.unwrap_or_default();
            Brought::parse(&recorded, spec.files.len()).all()
        }
    };
    Some((spec.input.get().to_owned(), brought))
}

/// What a recorded result holds, counted as its record says.
pub(super) fn outputs(flight: &Flight, json: &str) -> Found {
    let echoes: Vec<u32> = match flight.echoes.as_str() {
        "" => Vec::new(), // as of most: no parser need say so
        text => serde_json::from_str(text).unwrap_or_default(),
    };
    fal::outputs_but(json, &echoes)
}

/// A file of a host that may not be fetched from goes as a link: the operator should know why. Said
/// here, once, and not at each try to deliver it.
fn warn_of_foreign_hosts(worker: &Worker, flight: &Flight, items: &[Item]) {
    for item in items {
        if let Item::File(file) = item
            && is_foreign(&worker.tools.file_hosts, &file.url)
        {
            let url = without_credentials(&file.url);
            report::warning(
                "a file of a host that --file-host does not name goes as a link",
                &[("job", &job(flight).job), ("url", &url.as_str())],
            );
        }
    }
}

fn is_foreign(hosts: &FileHosts, url: &str) -> bool {
    !is_data(url) && !hosts.allows(url)
}

/// A URL without its user and its query: whoever has a signed URL has the file.
fn without_credentials(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// URLs of files for events; a data URI only as its type and length. Of very many only the first: the record has
/// the whole result.
pub(super) fn file_urls(items: &[Item]) -> Vec<String> {
    let files = items.iter().filter_map(|item| match item {
        Item::File(file) => Some(&file.url),
        Item::Text(_) => None,
    });
    files
        .map(|url| match is_data(url) {
            true => {
                let kind = url[5..].split([';', ',']).next().unwrap_or("");
                let kind: String = kind.chars().take(100).collect();
                format!("data:{kind};{} bytes", url.len())
            }
            false => url.clone(),
        })
        .scan(NAMED, |left, url| {
            *left = left.checked_sub(url.len())?;
            Some(url)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::answer::File;

    #[test]
    fn a_file_that_stands_in_its_url_is_of_no_host_and_in_no_line_of_the_log() {
        let hosts = FileHosts::new::<&str>(&[]).unwrap();
        for (url, foreign) in [
            ("data:image/png;base64,AAAA", false),
            ("DATA:image/png;base64,AAAA", false),
            ("https://v3.fal.media/a", false),
            ("https://a.b/c", true),
        ] {
            assert_eq!(is_foreign(&hosts, url), foreign, "{url}");
        }
    }

    #[test]
    fn a_url_in_the_log_opens_nothing() {
        for (url, said) in [
            ("https://a.b/c.png?sig=1#x", "https://a.b/c.png"),
            ("http://u:p@w@a.b:1/c@d", "http://a.b:1/c@d"),
            ("https://a.b", "https://a.b"),
        ] {
            assert_eq!(without_credentials(url), said);
        }
    }

    #[test]
    fn an_event_names_as_many_files_as_a_bot_can_read() {
        let item = |n: usize| {
            Item::File(File {
                url: format!("https://v3.fal.media/{n:04}"),
                ..File::default()
            })
        };
        let all: Vec<_> = (0..9999).map(item).collect();
        let named = file_urls(&all);
        assert_eq!(named.len(), NAMED / "https://v3.fal.media/0000".len());
        assert!(
            named.last().unwrap().ends_with("2620"),
            "{:?}",
            named.last()
        );
    }

    #[test]
    fn a_data_uri_stands_in_an_event_by_its_type_and_length_however_it_is_written() {
        let long = format!("data:{}/x,AAAA", "t".repeat(5000));
        let urls = [
            "data:image/png;base64,AAAA",
            "DATA:image/png;base64,AAAA",
            &long,
            "https://v3.fal.media/a",
            "é",
        ];
        let item = |url: &str| {
            Item::File(File {
                url: url.to_owned(),
                ..File::default()
            })
        };
        let shown = file_urls(&urls.map(item));
        assert_eq!(shown[0], "data:image/png;26 bytes");
        assert_eq!(shown[1], "data:image/png;26 bytes");
        assert_eq!(shown[2], format!("data:{};5012 bytes", "t".repeat(100)));
        assert_eq!(shown[3..], ["https://v3.fal.media/a", "é"]);
    }
}
