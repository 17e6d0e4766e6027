//! `retry`: a new life for dead letters, and what each of them costs.

use super::admin::{away, kind, open};
use super::operate::{NO_ID, print, tell};
use super::{INCOMPLETE, USAGE};
use crate::config::{StoreArgs, StoreConfig};
use crate::job::JobId;
use crate::job::failure::Kind;
use crate::job::pattern::Pattern;
use crate::store::view::View;
use crate::store::{Retried, Retry};
use serde_json::json;

/// Jobs tried before the first of them are printed.
const PAGE: usize = 500;

/// Arguments of `retry`.
#[derive(Debug, clap::Args)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Ids of the jobs
    #[arg(value_name = "ID", required_unless_present = "all_dead")]
    ids: Vec<String>,
    /// All dead letters there are now
    #[arg(long, conflicts_with = "ids")]
    all_dead: bool,
    /// Of those the ones that failed so, such as unavailable
    #[arg(long, value_name = "KIND", requires = "all_dead")]
    kind: Option<String>,
    /// Of those the ones of these models, such as fal-ai/flux* (* is any text)
    #[arg(long, value_name = "PATTERN", requires = "all_dead")]
    model: Option<String>,
    /// Of those the ones of this user
    #[arg(
        long,
        value_name = "USER",
        requires = "all_dead",
        allow_hyphen_values = true
    )]
    user: Option<String>,
    /// Only say what would be done, and what it costs
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl RetryArgs {
    pub(super) fn store(&self) -> &StoreArgs {
        &self.store
    }
}

/// What has been said so far.
#[derive(Default)]
struct Sum {
    free: usize,
    paid: usize,
    refused: usize,
}

/// `retry`: a line a job; exit 1 if one of them has no new life.
pub(super) fn retry(args: &RetryArgs, store: &StoreConfig) -> u8 {
    match retry_all(args, store) {
        Ok(code) | Err(code) => code,
    }
}

fn retry_all(args: &RetryArgs, store: &StoreConfig) -> Result<u8, u8> {
    let wanted = Wanted::read(args)?;
    let mut view = open(store)?;
    let mut sum = Sum::default();
    if args.all_dead {
        let letters = view.dead_letters().map_err(|fault| away(&fault))?;
        let ids = letters.into_iter().filter(|letter| {
            wanted.kind.is_none_or(|kind| letter.kind == kind.as_str())
                && (wanted.model.as_ref()).is_none_or(|model| model.matches(&letter.model))
                && (args.user.as_ref()).is_none_or(|user| letter.user == *user)
        });
        let ids: Vec<JobId> = ids.map(|letter| letter.id).collect();
        retry_some(args, &mut view, &ids, &mut sum)?;
        if !args.json && sum.free + sum.paid + sum.refused == 0 {
            let all = args.kind.is_none() && args.model.is_none() && args.user.is_none();
            tell(match all {
                true => "there are no dead letters",
                false => "no dead letter fits",
            });
        }
    } else {
        // In the order in which they were named.
        for id in &args.ids {
            match JobId::new(id) {
                Some(id) => retry_some(args, &mut view, &[id], &mut sum)?,
                None => {
                    sum.refused += 1;
                    let line =
                        json!({"id": id, "outcome": "unknown", "text": NO_ID, "done": false});
                    print(args.json, &line);
                }
            }
        }
    }
    if !args.json && sum.free + sum.paid > 1 {
        let so = if args.dry_run { "would go" } else { "go" };
        let all = sum.free + sum.paid;
        tell(&format!(
            "{all} {so} on: {} free, {} paid",
            sum.free, sum.paid
        ));
    }
    Ok(if sum.refused > 0 { INCOMPLETE } else { 0 })
}

/// Which of the dead letters are meant.
struct Wanted {
    kind: Option<Kind>,
    model: Option<Pattern>,
}

impl Wanted {
    fn read(args: &RetryArgs) -> Result<Wanted, u8> {
        let model = args.model.as_deref().map(|text| {
            Pattern::new(text).ok_or_else(|| {
                eprintln!("fal-worker: --model: {text:?} is no model, nor a pattern of models");
                USAGE
            })
        });
        Ok(Wanted {
            kind: kind(args.kind.as_deref())?,
            model: model.transpose()?,
        })
    }
}

fn retry_some(args: &RetryArgs, view: &mut View, ids: &[JobId], sum: &mut Sum) -> Result<(), u8> {
    for page in ids.chunks(PAGE) {
        let tried = view.retry(page, args.dry_run);
        for one in tried.map_err(|fault| away(&fault))? {
            match one.retry {
                Retry::Deliver | Retry::Fetch => sum.free += 1,
                Retry::Generate => sum.paid += 1,
                // Between the look at all of them and this one somebody else was here.
                Retry::Open | Retry::Done | Retry::Cancelled | Retry::Gone if args.all_dead => {
                    continue;
                }
                _ => sum.refused += 1,
            }
            let line = json!({
                "id": one.id.as_str(),
                "outcome": word(one.retry),
                "text": text(&one, args.dry_run),
                "done": one.retry.revives(),
                "paid": one.retry == Retry::Generate,
                "kind": one.kind,
                "charged_before": one.charged,
                "dry_run": args.dry_run,
            });
            print(args.json, &line);
        }
    }
    Ok(())
}

fn word(retry: Retry) -> &'static str {
    match retry {
        Retry::Deliver => "deliver",
        Retry::Fetch => "fetch",
        Retry::Generate => "generate",
        Retry::Open => "open",
        Retry::Done => "over",
        Retry::Cancelled => "cancelled",
        Retry::Invalid => "invalid",
        Retry::Redelivery => "redelivery",
        Retry::Bare => "bare",
        Retry::Newer => "newer",
        Retry::Gone => "unknown",
    }
}

fn text(one: &Retried, dry_run: bool) -> String {
    let would = |is: &str, would: &str| if dry_run { would } else { is }.to_owned();
    match one.retry {
        Retry::Deliver => {
            let mut text = would(
                "is delivered again, free: its result is known",
                "would be delivered again, free: its result is known",
            );
            if one.messages > 0 {
                text += &format!(
                    "; {} of its messages are in the chat already and come once more",
                    one.messages
                );
            }
            text
        }
        Retry::Fetch => would(
            "goes on with its old request, free: fal may have the result still; if not, it fails again, and nothing \
             new is paid for",
            "would go on with its old request, free: fal may have the result still; if not, it fails again, and \
             nothing new is paid for",
        ),
        Retry::Generate => {
            let text = would("is generated again, paid", "would be generated again, paid");
            let before = match one.charged.as_str() {
                "no" => "; fal has charged nothing for it so far",
                "yes" => "; fal has charged for it once already",
                _ => {
                    "; nobody knows what became of its last request: fal may have run and charged it already"
                }
            };
            text + before
        }
        Retry::Open => format!("has not ended: it is {}", one.state),
        Retry::Done => "is done: `redeliver` sends its result again, free".to_owned(),
        Retry::Cancelled => {
            "was cancelled, and its entry is not kept: put it in again under another id".to_owned()
        }
        Retry::Invalid => {
            "was no job, since its entry broke a rule: put it in corrected, also under the same id"
                .to_owned()
        }
        Retry::Redelivery => "is a redelivery: `redeliver` makes another one".to_owned(),
        Retry::Bare => {
            "has failed, and its entry is not kept: put it in again under another id".to_owned()
        }
        Retry::Newer => "was written by a newer version".to_owned(),
        Retry::Gone => "is not known".to_owned(),
    }
}
