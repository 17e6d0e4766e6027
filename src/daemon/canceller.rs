//! Requests that a dead process left at fal and nobody needs: a thread ends them beside the keeper, which beats
//! meanwhile and takes the jobs. It is started with the first of them, nobody waits for its end, and each step file
//! stays, under our lock, until its requests are dealt with: who dies before has lost nothing.

use super::spawn;
use crate::recorder::Left;
use crate::report;
use crate::steps::{Tools, recover};
use crate::store::Paid;
use crossbeam_channel::Sender;
use std::sync::Arc;

/// The keeper's hand on the thread.
#[derive(Default)]
pub(super) struct Canceller(Option<Sender<(Left, Vec<Paid>)>>);

impl Canceller {
    /// Everything in this file is in Redis: it goes, once these requests were asked to end.
    pub(super) fn end(&mut self, tools: &Arc<Tools>, left: Left, needless: Vec<Paid>) {
        if needless.is_empty() {
            return remove(tools, left);
        }
        let sender = self.0.get_or_insert_with(|| start(tools.clone()));
        if sender.send((left, needless)).is_err() {
            // No thread could be had: the file is ours no more, stays, and is read again.
            self.0 = None;
        }
    }
}

fn start(tools: Arc<Tools>) -> Sender<(Left, Vec<Paid>)> {
    let (sender, files) = crossbeam_channel::unbounded::<(Left, Vec<Paid>)>();
    let work = move || {
        for (left, needless) in files {
            recover::cancel(&tools, &needless);
            remove(&tools, left);
        }
    };
    if let Err(error) = spawn("canceller".to_owned(), work) {
        report::debug("needless requests wait", &[("why", &error.to_string())]);
    }
    sender
}

fn remove(tools: &Tools, left: Left) {
    if let Err(error) = left.remove() {
        let folder = tools
            .state
            .as_deref()
            .map(|path| path.display().to_string());
        let (folder, why) = (folder.unwrap_or_default(), error.to_string());
        report::warning(
            "a step file cannot be removed, it is read again",
            &[("folder", &folder.as_str()), ("why", &why.as_str())],
        );
    }
}
