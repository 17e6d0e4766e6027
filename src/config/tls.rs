//! The certificates of a Redis behind TLS: who signs the server's, and which one we show it. Each is a file in
//! PEM form that a flag or its variable names, or a systemd credential of the same name. A path is no secret;
//! what lies behind `redis-key` is, so no error here repeats anything of a file.

use super::url::RedisUrl;
use super::{ConfigError, Reader, flag};
use redis::{ClientTlsConfig, TlsCertificates};
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A bundle of every public CA is a fifth of this.
const MAX_FILE: u64 = 1 << 20;

/// What a file was found to hold, and where it lies, for errors.
struct Pem {
    bytes: Vec<u8>,
    place: String,
}

impl Reader<'_> {
    /// The URL with the certificates that belong to it.
    pub(super) fn with_certificates(&self, redis: RedisUrl) -> Result<RedisUrl, ConfigError> {
        let ca = self.pem("redis-ca", "CERTIFICATE")?;
        let cert = self.pem("redis-cert", "CERTIFICATE")?;
        let key = self.pem("redis-key", "PRIVATE KEY")?;
        let Some(first) = [&ca, &cert, &key].into_iter().flatten().next() else {
            return Ok(redis);
        };
        if !redis.is_tls() {
            return Err(ConfigError(format!(
                "{}: only a Redis by TLS has certificates: its URL begins with rediss://",
                first.place
            )));
        }
        let client_tls = match (cert, key) {
            (Some(cert), Some(key)) => Some(ClientTlsConfig {
                client_cert: cert.bytes,
                client_key: key.bytes,
            }),
            (None, None) => None,
            (Some(alone), None) => {
                return Err(ConfigError(format!(
                    "{}: its key is missing: --redis-key (FAL_WORKER_REDIS_KEY) or credential redis-key",
                    alone.place
                )));
            }
            (None, Some(alone)) => {
                return Err(ConfigError(format!(
                    "{}: its certificate is missing: --redis-cert (FAL_WORKER_REDIS_CERT) or credential \
                     redis-cert",
                    alone.place
                )));
            }
        };
        let root_cert = ca.map(|ca| ca.bytes);
        let certificates = TlsCertificates {
            client_tls,
            root_cert,
        };
        // The crate's own words may repeat a line of the file.
        redis.with_tls(&certificates).map_err(|_| {
            ConfigError(
                "--redis-ca, --redis-cert, --redis-key: one of these files is damaged PEM".into(),
            )
        })
    }

    /// The file behind a flag, its variable or the credential of its name. `section`: what must stand in it.
    fn pem(&self, name: &str, section: &str) -> Result<Option<Pem>, ConfigError> {
        let flag = flag(name);
        let given = self.optional(name, |text| match text {
            text if text.starts_with('/') => Ok(PathBuf::from(text)),
            text => Err(format!("{} is no absolute path", super::quoted(text))),
        })?;
        let credential = self
            .env
            .get("CREDENTIALS_DIRECTORY")
            .map(|folder| Path::new(folder).join(name))
            .filter(|path| fs::symlink_metadata(path).is_ok());
        let place = format!("--{} ({})", flag.name, flag.variable);
        let (place, path) = match (given, credential) {
            (Some(_), Some(_)) => {
                return Err(ConfigError(format!(
                    "{place}: credential {name} is set too; exactly one of them may be"
                )));
            }
            (Some(path), None) => (place, path),
            (None, Some(path)) => (format!("credential {name}"), path),
            (None, None) => return Ok(None),
        };
        let refuse = |why: &dyn fmt::Display| {
            let path = path.display().to_string();
            ConfigError(format!("{place}: {}: {why}", path.escape_debug()))
        };
        let bytes = read(&path).map_err(|error| refuse(&error))?;
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
            return Err(refuse(
                &"the key is encrypted; write it without a passphrase, readable by the service alone",
            ));
        }
        if !text.contains(&format!("{section}-----")) {
            return Err(refuse(&format_args!("no {section} in PEM form in it")));
        }
        Ok(Some(Pem { bytes, place }))
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other("over 1 MiB"));
    }
    Ok(bytes)
}
