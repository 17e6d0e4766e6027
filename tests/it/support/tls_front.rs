//! TLS in front of a plain stand-in, with a certificate of one's own: counts handshakes and closes connections
//! as a server does that has had enough of an idle one.

use super::certificates::Pair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// `close_notify`, then the end of the stream.
    Said,
    /// The end of the stream alone, as many servers do.
    Unsaid,
}

/// The front; its connections end when it is dropped.
pub struct TlsFront {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    target: SocketAddr,
    config: Arc<ServerConfig>,
    handshakes: AtomicU64,
    /// Each answer comes once more, a moment later.
    says_twice: AtomicBool,
    /// Answers that will come once more.
    owed: AtomicU64,
    stop: AtomicBool,
    open: Mutex<Vec<Arc<Link>>>,
}

struct Link {
    tls: Mutex<ServerConnection>,
    client: TcpStream,
    server: TcpStream,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TlsFront {
    /// Listens on a loopback port, with this certificate and these versions, for a server at `url`.
    pub fn to(url: &str, pair: &Pair, versions: &[&'static SupportedProtocolVersion]) -> TlsFront {
        let target = url.trim_start_matches("http://");
        let target = target.split('/').next().unwrap().parse().unwrap();
        let certificate = CertificateDer::from_pem_file(&pair.cert).unwrap();
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        let config = ServerConfig::builder_with_protocol_versions(versions)
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            config: Arc::new(config),
            handshakes: AtomicU64::new(0),
            says_twice: AtomicBool::new(false),
            owed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.stop.load(SeqCst) {
                    return;
                }
                let _ = accepting.carry(client);
            }
        });
        TlsFront { shared, address }
    }

    /// `https://127.0.0.1:PORT`, with the path of the stand-in's own URL.
    pub fn url(&self, plain: &str) -> String {
        let behind = plain.trim_start_matches("http://");
        let path = behind.find('/').map_or("", |at| &behind[at..]);
        format!("https://{}{path}", self.address)
    }

    /// Handshakes that were completed.
    pub fn handshakes(&self) -> u64 {
        self.shared.handshakes.load(SeqCst)
    }

    /// From now on each answer comes once more, when the first one has been read.
    pub fn say_all_twice(&self) {
        self.shared.says_twice.store(true, SeqCst);
    }

    /// Whether each answer has come as often as it will.
    pub fn has_said_all(&self) -> bool {
        self.shared.owed.load(SeqCst) == 0
    }

    /// New keys on every connection: TLS speaks of itself, and with TLS 1.3 it looks like an answer.
    pub fn renew_keys(&self) {
        for link in &*locked(&self.shared.open) {
            let mut tls = locked(&link.tls);
            tls.refresh_traffic_keys().unwrap();
            link.flush(&mut tls).unwrap();
        }
    }

    /// Ends every connection.
    pub fn close_connections(&self, goodbye: Goodbye) {
        for link in std::mem::take(&mut *locked(&self.shared.open)) {
            link.end(goodbye);
        }
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.close_connections(Goodbye::Unsaid);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn carry(self: &Arc<Shared>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.target)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let tls = ServerConnection::new(self.config.clone()).map_err(io::Error::other)?;
        let link = Arc::new(Link {
            tls: Mutex::new(tls),
            client,
            server,
        });
        locked(&self.open).push(link.clone());
        let (shared, up) = (self.clone(), link.clone());
        std::thread::spawn(move || {
            let _ = up.requests(&shared.handshakes);
            up.end(Goodbye::Unsaid);
        });
        let shared = self.clone();
        std::thread::spawn(move || {
            let _ = link.answers(&shared.says_twice, &shared.owed);
            link.end(Goodbye::Said);
        });
        Ok(())
    }
}

impl Link {
    /// What the client sends, until it ends. The socket is read outside of the lock, so answers can pass.
    fn requests(&self, handshakes: &AtomicU64) -> io::Result<()> {
        let (mut sealed, mut plain) = (vec![0; 16 << 10], Vec::new());
        let mut greeted = false;
        loop {
            let amount = (&self.client).read(&mut sealed)?;
            if amount == 0 {
                return Ok(());
            }
            let mut rest = &sealed[..amount];
            while !rest.is_empty() {
                let mut tls = locked(&self.tls);
                tls.read_tls(&mut rest)?;
                let state = tls.process_new_packets().map_err(io::Error::other);
                self.flush(&mut tls)?;
                let readable = state?.plaintext_bytes_to_read();
                plain.resize(readable, 0);
                tls.reader().read_exact(&mut plain)?;
                if !greeted && !tls.is_handshaking() {
                    greeted = true;
                    handshakes.fetch_add(1, SeqCst);
                }
                drop(tls);
                (&self.server).write_all(&plain)?;
            }
        }
    }

    /// What the server answers, until it ends.
    fn answers(&self, twice: &AtomicBool, owed: &AtomicU64) -> io::Result<()> {
        let mut plain = vec![0; 16 << 10];
        loop {
            let amount = (&self.server).read(&mut plain)?;
            if amount == 0 {
                return Ok(());
            }
            if !twice.load(SeqCst) {
                self.say(&plain[..amount])?;
                continue;
            }
            owed.fetch_add(1, SeqCst);
            let said = self.say(&plain[..amount]).and_then(|()| {
                std::thread::sleep(Duration::from_millis(50)); // so much later it comes
                self.say(&plain[..amount])
            });
            owed.fetch_sub(1, SeqCst);
            said?;
        }
    }

    fn say(&self, plain: &[u8]) -> io::Result<()> {
        let mut tls = locked(&self.tls);
        tls.writer().write_all(plain)?;
        self.flush(&mut tls)
    }

    fn flush(&self, tls: &mut ServerConnection) -> io::Result<()> {
        let mut sealed = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut sealed)?;
        }
        (&self.client).write_all(&sealed)
    }

    fn end(&self, goodbye: Goodbye) {
        if goodbye == Goodbye::Said {
            let mut tls = locked(&self.tls);
            tls.send_close_notify();
            let _ = self.flush(&mut tls);
        }
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}
