//! What this configuration may take of memory, files and connections: sums, without a look at the machine.
//! README shows the same formula.

use crate::config::Config;
use crate::telegram::plan::TransferLimits;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The process before its first job.
const BASE: u64 = 12 * MIB;
/// Stack of a thread, all of it; usually 16 KiB of it are touched.
const STACK: u64 = 512 * KIB;
/// Threads beside pool and transfers: intake, keeper, listen, page, DNS, signs, secrets.
const OTHER_THREADS: u64 = 7;
/// 16 KiB one way and 20 the other, and twice 16 for TLS.
const HTTP_CONNECTION: u64 = 68 * KIB;
/// Its buffers.
const REDIS_CONNECTION: u64 = 16 * KIB;
/// A job in memory whose input has gone: 1 KiB measured, three more for long texts of its message.
const JOB: u64 = 4 * KIB;
/// Inputs of jobs that are not yet submitted: pulling stops there.
const INPUTS: u64 = 16 * MIB;
/// Longest result of fal that is read, and the largest that most models give.
const RESULT: u64 = 16 * MIB;
const USUAL_RESULT: u64 = 64 * KIB;
/// Hosts whose connections are kept: queue, fal.run or storage, Telegram, two of files.
const HOSTS: u64 = 5;
/// Files of an album.
const ALBUM: u64 = 10;

/// The sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Bytes of memory with results of the usual size.
    pub(super) usual: u64,
    /// And if every thread that may be at fal reads the longest result at once.
    pub(super) worst: u64,
    /// Bytes of temporary files if every transfer thread brings a full upload.
    pub(super) spool: u64,
    /// Open files.
    pub(super) files: u64,
    /// Connections to Redis.
    pub(super) redis: u64,
}

impl Need {
    pub(super) fn of(config: &Config) -> Need {
        let pool = config.threads.pool as u64;
        let transfer = config.threads.transfer as u64;
        let threads = pool + transfer;
        // The pool, the blocked pull and intake's.
        let redis = u64::from(config.redis_connections) + 2;
        let http = threads * HOSTS;
        // A tenth more than asked for, where paid work goes on.
        let jobs = config.limits.max_in_flight as u64 * 11 / 10;
        let fixed = BASE
            + (threads + OTHER_THREADS) * STACK
            + http * HTTP_CONNECTION
            + redis * REDIS_CONNECTION
            + jobs * JOB
            + INPUTS;
        // Three quarters of the pool are at one service at most; direct calls take half of the transfers.
        let at_fal = (pool * 3 / 4).max(1) + transfer.div_ceil(2);
        let limits = TransferLimits::of(config.urls.telegram.as_str());
        Need {
            usual: fixed + at_fal * USUAL_RESULT,
            worst: fixed + at_fal * RESULT,
            spool: transfer * limits.upload_body,
            // Step file and journal, standard streams, listen, DNS and the like.
            files: http + threads + redis + transfer * ALBUM + 64,
            redis,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, RunArgs};

    fn need(flags: &[(&str, &str)]) -> Need {
        let env: Environment = [("FAL_KEY", "id:secret")].into_iter().collect();
        let args = RunArgs::typed(flags.iter().copied());
        Need::of(&Config::load(&args, &env).expect("valid"))
    }

    #[test]
    fn the_defaults_fit_a_small_machine() {
        let need = need(&[]);
        assert_eq!(need.redis, 52);
        assert!((60..90).contains(&(need.usual / MIB)), "{need:?}");
        assert!((450..520).contains(&(need.worst / MIB)), "{need:?}");
        assert!(need.files < 512, "{need:?}");
        assert_eq!(need.spool, 4 * 50_000_000);
    }

    #[test]
    fn more_threads_and_jobs_need_more_of_everything() {
        let (few, many) = (
            need(&[]),
            need(&[("threads", "512"), ("max-in-flight", "20000")]),
        );
        assert!(many.usual > few.usual && many.worst > few.worst);
        assert!(many.files > 2048 && many.redis == 512 + 4 + 4 + 2);
    }
}
