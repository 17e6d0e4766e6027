//! The stand-ins of fal and Telegram as a program of their own, for `tests/systemd`: a container has no test
//! that could start them. Writes where they are to a folder, and every tenth of a second what they saw.
//!
//! `standins FOLDER`: `FOLDER/env` (settings of the worker), `FOLDER/fal-key`, `FOLDER/telegram-bot-token`,
//! `FOLDER/ports` (`fal=PORT telegram=PORT`), then `FOLDER/seen`: `submits=N jobs=N sends=N uploads=N
//! violations=N`, until it is ended.

use fal_worker::sandbox::fal::FalStandIn;
use fal_worker::sandbox::faults::Faults;
use fal_worker::sandbox::telegram::TelegramStandIn;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1).filter(|word| word != "--bench") else {
        eprintln!("standins FOLDER: for tests/systemd, there is nothing to measure");
        return ExitCode::SUCCESS;
    };
    match serve(Path::new(&folder)) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("standins: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(folder: &Path) -> io::Result<std::convert::Infallible> {
    let faults = Faults::new(1);
    let fal = FalStandIn::start(faults.clone(), 1).map_err(io::Error::other)?;
    let telegram = TelegramStandIn::start(faults).map_err(io::Error::other)?;
    telegram.allow_fetch_host(&fal.file_host());
    telegram.watch_for_secret(&fal.key());
    fal.watch_for_secret(&telegram.token());
    // Long enough for a kill to find jobs in hand on a busy machine.
    fal.set_generation(Duration::from_secs(5), Duration::from_secs(6));
    fs::create_dir_all(folder)?;
    write(folder, "fal-key", &fal.key())?;
    write(folder, "telegram-bot-token", &telegram.token())?;
    let port = |url: &str| {
        let port = url.rsplit(':').next().unwrap_or_default();
        port.trim_end_matches('/').to_owned()
    };
    let ports = format!(
        "fal={} telegram={}\n",
        port(&fal.queue_url()),
        port(&telegram.url())
    );
    write(folder, "ports", &ports)?;
    let env = format!(
        "FAL_WORKER_FAL_URL={}\nFAL_WORKER_FAL_RUN_URL={}\nFAL_WORKER_FAL_STORAGE_URL={}\n\
         FAL_WORKER_TELEGRAM_URL={}\nFAL_WORKER_FILE_HOSTS={}\n",
        fal.queue_url(),
        fal.run_url(),
        fal.storage_url(),
        telegram.url(),
        fal.file_host()
    );
    write(folder, "env", &env)?;
    loop {
        let submits = fal.submits();
        let jobs: HashSet<&[u8]> = submits.iter().map(|one| &*one.input).collect();
        let uploads = telegram.visible_files();
        let uploads = uploads.iter().filter(|file| file.upload_name().is_some());
        let seen = format!(
            "submits={} jobs={} sends={} uploads={} violations={}\n",
            submits.len(),
            jobs.len(),
            telegram.sends_count(),
            uploads.count(),
            fal.violations().len() + telegram.violations().len()
        );
        write(folder, "seen", &seen)?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whole or not at all: others read it meanwhile.
fn write(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let half = folder.join(format!(".{name}"));
    fs::write(&half, text)?;
    fs::rename(half, folder.join(name))
}
