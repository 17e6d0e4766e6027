//! fal's storage: a file is announced with the key, then put to the URL that the answer names, without it
//! (fal-api section 7). Both are free and may be repeated.

use super::answer::{is_a_page, wait};
use super::{CONNECT, Fal, OTHER_BYTES};
use crate::http::{Answer, Body, Bounds, Broken, Place, Request, Service, Spooled};
use crate::job::Charged;
use crate::job::failure::{Failure, Kind, Remedy};
use crate::report;
use serde::Deserialize;
use serde_json::json;
use std::io::Seek;
use std::time::Duration;

const INITIATE: Duration = Duration::from_secs(15);
/// As uploads to Telegram.
const PUT_BASE: Duration = Duration::from_secs(60);
const PUT_BYTES_PER_S: u64 = 128 << 10;
/// Longest URL.
const URL: usize = 2048;

#[derive(Deserialize)]
struct Announced {
    upload_url: String,
    file_url: String,
}

impl Fal {
    /// Puts a file into fal's storage and gives its public URL. For transfer threads.
    pub fn store_file(
        &self,
        file: &mut Spooled,
        name: &str,
        content_type: &str,
    ) -> Result<String, Failure> {
        let url = format!(
            "{}/storage/upload/initiate?storage_type=fal-cdn-v3",
            self.urls.storage
        );
        let about = json!({"file_name": name, "content_type": content_type}).to_string();
        let bounds = (INITIATE, OTHER_BYTES);
        let announced = match self.call("POST", &url, &[], Some(&about), bounds) {
            Ok(answer) if (200..300).contains(&answer.status) => answer,
            Ok(answer) => return Err(refused(&answer)),
            Err(broken) => return Err(away(&broken)),
        };
        let announced: Option<Announced> = serde_json::from_slice(&announced.body).ok();
        let fits = |url: &str| is_safe(url, &self.urls.storage);
        let Some(to) = announced.filter(|to| fits(&to.upload_url) && fits(&to.file_url)) else {
            let text = "fal's storage gave an answer that cannot be used";
            return Err(passing(text.to_owned(), None));
        };
        file.file.rewind().map_err(|error| {
            passing(
                format!("temporary file: {}", report::in_words(&error)),
                None,
            )
        })?;
        // No key: the URL alone gives the right to write there, and its host may be anybody's.
        let put = self.http.exchange(Request {
            service: Service::Files,
            method: "PUT",
            url: &to.upload_url,
            headers: &[],
            body: Body::Stream {
                content_type,
                len: file.len,
                reader: &mut file.file,
            },
            bounds: Bounds {
                connect: CONNECT,
                total: PUT_BASE + Duration::from_secs(file.len / PUT_BYTES_PER_S),
                max_bytes: OTHER_BYTES,
            },
        });
        match put {
            Ok(answer) if (200..300).contains(&answer.status) => Ok(to.file_url),
            Ok(answer) if answer.status == 413 => Err(refused(&answer)),
            // A URL of its own each time: what is refused now says nothing about the next one.
            Ok(answer) => Err(passing(
                format!("fal's storage answered {} to the file", answer.status),
                None,
            )),
            Err(broken) => Err(away(&broken)),
        }
    }
}

/// `https`; `http` and this machine only where the storage itself was configured so.
fn is_safe(url: &str, storage: &str) -> bool {
    let (Some(place), Some(own)) = (Place::of(url), Place::of(storage)) else {
        return false;
    };
    url.len() <= URL
        && url.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
        && (place.tls || !own.tls)
        && (!place.is_loopback() || own.is_loopback())
}

fn refused(answer: &Answer) -> Failure {
    let status = answer.status;
    let text = format!("fal's storage answered {status}");
    let wait = wait(answer.header("retry-after"));
    let of = |kind| Failure {
        kind,
        remedy: Remedy::Final,
        spoke: true,
        ..passing(text.clone(), wait)
    };
    match status {
        // Of something in front of it, as a firewall's: nobody has looked at the key.
        401..=403 if is_a_page(answer) => passing(text, wait),
        401 | 403 => of(Kind::Auth),
        402 => of(Kind::NoBalance),
        413 => of(Kind::FileTooBig),
        400 | 415 | 422 => of(Kind::InvalidInput),
        429 => Failure {
            remedy: Remedy::RetryStep,
            ..of(Kind::RateLimited)
        },
        // 404 and the like: the address may be wrong, or half of fal be away. A person sees the outage.
        _ => passing(text, wait),
    }
}

fn away(broken: &Broken) -> Failure {
    passing(format!("fal's storage: {broken}"), None)
}

fn passing(text: String, retry_after: Option<Duration>) -> Failure {
    Failure {
        retry_after,
        spoke: false,
        ..Failure::new(Kind::Unavailable, Remedy::RetryStep, Charged::No, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_to_https_and_to_this_machine_only_from_a_storage_that_is_here() {
        let (far, here) = ("https://rest.fal.ai", "http://127.0.0.1:9");
        for (url, storage, safe) in [
            ("https://v3.fal.media/x?sig=1", far, true),
            ("https://storage.googleapis.com/x", far, true),
            ("http://v3.fal.media/x", far, false),
            ("http://127.0.0.1:1/x", far, false),
            ("https://localhost/x", far, false),
            ("https://[::1]/x", far, false),
            ("https://key@v3.fal.media/x", far, false),
            ("ftp://v3.fal.media/x", far, false),
            ("https://v3.fal.media/x\"y", far, false),
            ("", far, false),
            ("http://127.0.0.1:1/x", here, true),
            ("https://v3.fal.media/x", here, true),
        ] {
            assert_eq!(is_safe(url, storage), safe, "{url} from {storage}");
        }
    }

    #[test]
    fn a_refusal_of_the_storage_costs_nothing_and_says_who_can_help() {
        use Kind::*;
        use Remedy::*;
        let (page, own) = ("<html></html>", r#"{"detail":"no"}"#);
        for (status, body, kind, remedy) in [
            (401, own, Auth, Final),
            (403, own, Auth, Final),
            (402, own, NoBalance, Final),
            (413, own, FileTooBig, Final),
            (413, page, FileTooBig, Final),
            (422, own, InvalidInput, Final),
            (429, page, RateLimited, RetryStep),
            (404, own, Unavailable, RetryStep),
            (500, own, Unavailable, RetryStep),
            (502, page, Unavailable, RetryStep),
            // Nobody there has looked at the key.
            (401, page, Unavailable, RetryStep),
            (402, page, Unavailable, RetryStep),
            (403, "", Unavailable, RetryStep),
        ] {
            let failure = refused(&Answer {
                status,
                headers: [("retry-after", "7")].into_iter().collect(),
                body: body.into(),
            });
            let said = (failure.kind, failure.remedy);
            assert_eq!(said, (kind, remedy), "{status} {body}");
            assert_eq!(failure.charged, Charged::No, "{status}");
            assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
        }
    }
}
