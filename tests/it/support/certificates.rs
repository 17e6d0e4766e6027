//! A certificate authority of one test, and what it signs: files in PEM form, as an operator would have them.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use std::fs;
use std::path::{Path, PathBuf};

/// Signs certificates; its files lie in the folder that it was given.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    name: String,
}

/// The two files of one certificate.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    /// A new one; `name` stands before its files.
    pub fn new(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let authority = Authority {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            folder: folder.to_owned(),
            name: name.to_owned(),
        };
        fs::write(authority.file(), authority.issuer.pem()).unwrap();
        authority
    }

    /// Its own certificate: what `--redis-ca` and `SSL_CERT_FILE` take.
    pub fn file(&self) -> String {
        self.path("ca.pem")
    }

    /// A certificate for a server of these names and addresses.
    pub fn server(&self, names: &[&str]) -> Pair {
        self.issue("server", names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate that a client shows.
    pub fn client(&self) -> Pair {
        self.issue("client", &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, what: &str, names: &[&str], purpose: ExtendedKeyUsagePurpose) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, what);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            cert: self.path(&format!("{what}.pem")),
            key: self.path(&format!("{what}.key")),
        };
        fs::write(&pair.cert, cert.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    fn path(&self, what: &str) -> String {
        let path = self.folder.join(format!("{}-{what}", self.name));
        path.to_str().unwrap().to_owned()
    }
}
