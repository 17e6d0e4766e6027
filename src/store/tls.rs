//! What a refused TLS handshake with Redis means, in the words of our settings: rustls says what it saw, and
//! redis-rs passes it on as text alone. Only what no waiting mends stands here, so a start that meets it is a
//! start with a wrong configuration. A certificate that expired may be renewed while we wait.

/// Signs in the text, and what they tell an operator.
#[rustfmt::skip]
const MEANINGS: [(&[&str], &str); 6] = [
    (&["keys may not be consistent"],
        "--redis-key is not the key of --redis-cert"),
    (&["Unable to build client with TLS parameters"],
        "--redis-cert and --redis-key cannot be used"),
    (&["UnknownIssuer", "CaUsedAsEndEntity"],
        "its certificate is signed by nobody known here, see --redis-ca"),
    (&["not valid for name", "NotValidForName"],
        "its certificate is for another host than the URL names"),
    (&["alert: CertificateRequired"],
        "it wants a certificate from us, see --redis-cert and --redis-key"),
    (&["alert: UnknownCA", "alert: BadCertificate", "alert: CertificateUnknown",
       "alert: UnsupportedCertificate", "alert: AccessDenied", "alert: DecryptError"],
        "it refuses our certificate, see --redis-cert"),
];

/// The refusal in the words of our settings; `None`: it is something else.
pub(crate) fn refusal(text: &str) -> Option<&'static str> {
    let mut meanings = MEANINGS.iter();
    let found = meanings.find(|(signs, _)| signs.iter().any(|sign| text.contains(sign)));
    found.map(|(_, words)| *words)
}
