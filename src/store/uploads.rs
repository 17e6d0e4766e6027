//! Files of users that lie in fal's storage: where, so that one that is used again is not uploaded again.

use super::*;

impl Session {
    /// The URL of a file in fal's storage, if it was put there not long ago.
    pub(crate) fn upload(&self, bot: &str, file_id: &str) -> Result<Option<String>, Fault> {
        read(self.command(redis::cmd("GET").arg(self.store.keys.upload(bot, file_id)))?)
    }

    /// A file lies in fal's storage now, and may be used for so long.
    pub(crate) fn note_upload(
        &self,
        bot: &str,
        file_id: &str,
        url: &str,
        kept: Duration,
    ) -> Result<(), Fault> {
        let mut cmd = redis::cmd("SET");
        cmd.arg(self.store.keys.upload(bot, file_id))
            .arg(url)
            .arg("EX")
            .arg(kept.as_secs());
        self.command(&cmd).map(|_| ())
    }

    /// These files are not where they were put, or nobody can fetch them there.
    pub(crate) fn forget_uploads<'a>(
        &self,
        bot: &str,
        file_ids: impl Iterator<Item = &'a str>,
    ) -> Result<(), Fault> {
        let mut cmd = redis::cmd("DEL");
        file_ids.for_each(|id| {
            cmd.arg(self.store.keys.upload(bot, id));
        });
        self.command(&cmd).map(|_| ())
    }
}
