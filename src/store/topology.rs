//! Where the server is *now*: asked anew for each connection, of the sentinels or of the nodes of a cluster.
//! All keys have one slot, so either way what is found is one address, and from then on the connection is
//! a plain one: pipelines, scripts and blocking commands are the same everywhere.
//!
//! The redis crate has clients for both; they do not fit. Its `Sentinel` asks without any time limit, and
//! one that is a black hole would hold a thread for minutes. Its `ClusterConnection` opens a connection to
//! every node for each of ours, repeats and redirects commands on its own (a write's repeat must be counted
//! here), and cannot block in `BRPOP`. What is needed of either is one question.

use super::link::{ANSWER, CONNECT};
use crate::config::{Node, Server, Way};
use redis::{Connection, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, Value};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Time for one sentinel or node to be reached, and for its answer: it is one of several, and all of them
/// in turn should take no longer than a thread waits for its connection.
const ASK: Duration = Duration::from_millis(600);
/// Nodes of a cluster that are remembered beside those of the URL.
const LEARNT: usize = 32;

/// Finds the server and opens connections to it. Shared by all connections of a process.
pub(crate) struct Topology {
    server: Server,
    /// Of our keys.
    slot: u16,
    /// Whom to ask first: who answered last.
    first: AtomicUsize,
    /// Nodes of the cluster that its URL does not name: those it names may be gone one day.
    learnt: Mutex<Vec<Node>>,
}

impl Topology {
    /// `slot`: that of all keys. Fails where the address or its TLS cannot be used at all.
    pub(crate) fn new(server: Server, slot: u16) -> Result<Topology, RedisError> {
        redis::Client::open(server.info.clone())?;
        Ok(Topology {
            server,
            slot,
            first: AtomicUsize::new(0),
            learnt: Mutex::default(),
        })
    }

    /// Login, database and TLS.
    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.server.info
    }

    /// Where it is looked for, in words.
    pub(crate) fn place(&self) -> String {
        self.server.to_string()
    }

    /// A connection to the server as it is found now. Answers may take [`ANSWER`].
    pub(crate) fn connect(&self) -> Result<Connection, RedisError> {
        let info = match &self.server.way {
            Way::Fixed => return open(self.server.info.clone(), CONNECT, ANSWER),
            Way::Sentinel { nodes, .. } | Way::Cluster { nodes } => self.resolve(nodes)?,
        };
        let found = info.addr().to_string();
        let mut con = open(info, CONNECT, ANSWER)
            .map_err(|error| self.not_there(error, format!("{found} is named as the master")))?;
        // Whom a sentinel or a node names may have been deposed a moment ago, and not know it yet.
        // (`ROLE` would need a right of its own, and Redis's version is read from INFO anyway.)
        let about: String = redis::cmd("INFO").arg("replication").query(&mut con)?;
        if !about.contains("role:master") {
            self.ask_another();
            return Err(failure(format!(
                "{found} is named as the master and is none"
            )));
        }
        Ok(con)
    }

    /// The last answer led to a server that does not serve us: the next question goes to another.
    pub(crate) fn ask_another(&self) {
        self.first.fetch_add(1, Ordering::Relaxed);
    }

    /// A server's word (a refused password) stays what it is.
    fn not_there(&self, error: RedisError, what: String) -> RedisError {
        self.ask_another();
        if is_word(&error) {
            error
        } else {
            failure(format!("{what}: {error}"))
        }
    }

    fn resolve(&self, named: &[Node]) -> Result<ConnectionInfo, RedisError> {
        let mut nodes = named.to_vec();
        nodes.extend(self.learnt().iter().cloned());
        let first = self.first.load(Ordering::Relaxed);
        let mut refused: Option<RedisError> = None;
        for turn in 0..nodes.len() {
            let at = (first + turn) % nodes.len();
            match self.ask(&nodes[at]) {
                Ok(info) => {
                    // Unless another thread has learnt better meanwhile.
                    let _ = self.first.compare_exchange(
                        first,
                        at,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    );
                    return Ok(info);
                }
                Err(error) => {
                    let error = if is_word(&error) {
                        error
                    } else {
                        failure(format!("{}: {error}", nodes[at]))
                    };
                    // A refused password is what a person must hear of first.
                    if !refused.as_ref().is_some_and(is_word) {
                        refused = Some(error);
                    }
                }
            }
        }
        Err(refused.unwrap_or_else(|| failure("no node is named".to_owned())))
    }

    fn learnt(&self) -> std::sync::MutexGuard<'_, Vec<Node>> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one sentinel or node says.
    fn ask(&self, node: &Node) -> Result<ConnectionInfo, RedisError> {
        let info = self.server.info.clone();
        match &self.server.way {
            Way::Fixed => Ok(info),
            Way::Sentinel {
                master, login, tls, ..
            } => {
                let asked = at(info.clone(), node, Some(*tls)).set_redis_settings(login.clone());
                let mut con = open(asked, ASK, ASK)?;
                let mut cmd = redis::cmd("SENTINEL");
                cmd.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
                let found: Option<(String, u16)> = cmd.query(&mut con)?;
                let (host, port) = found
                    .ok_or_else(|| failure(format!("it knows no master of the name {master}")))?;
                Ok(at(info, &Node { host, port }, None))
            }
            Way::Cluster { nodes: named } => {
                let mut con = open(at(info.clone(), node, None), ASK, ASK)?;
                // One that is cut off from the others answers with what was true before.
                let state: String = redis::cmd("CLUSTER").arg("INFO").query(&mut con)?;
                if !state.contains("cluster_state:ok") {
                    return Err(failure("it says that the cluster is down".to_owned()));
                }
                let slots: Vec<Value> = redis::cmd("CLUSTER").arg("SLOTS").query(&mut con)?;
                let shards: Vec<Shard> = slots.iter().filter_map(|one| shard(one, node)).collect();
                let mut learnt: Vec<Node> = Vec::new();
                for other in shards.iter().flat_map(|shard| &shard.nodes) {
                    if learnt.len() < LEARNT && !named.contains(other) && !learnt.contains(other) {
                        learnt.push(other.clone());
                    }
                }
                *self.learnt() = learnt;
                let ours = shards
                    .into_iter()
                    .find(|shard| (shard.from..=shard.to).contains(&self.slot));
                let master = ours.and_then(|shard| shard.nodes.into_iter().next());
                let master = master
                    .ok_or_else(|| failure(format!("nobody serves our slot {}", self.slot)))?;
                Ok(at(info, &master, None))
            }
        }
    }
}

/// A range of slots, and who serves it: the master first.
struct Shard {
    from: u16,
    to: u16,
    nodes: Vec<Node>,
}

/// One entry of `CLUSTER SLOTS`: from, to, then of each node its address, port and more. A node that does
/// not know its own address leaves it out: it is the one that was asked.
fn shard(entry: &Value, asked: &Node) -> Option<Shard> {
    let Value::Array(parts) = entry else {
        return None;
    };
    let (Value::Int(from), Value::Int(to)) = (parts.first()?, parts.get(1)?) else {
        return None;
    };
    let node = |value: &Value| {
        let Value::Array(parts) = value else {
            return None;
        };
        let host = match redis::from_redis_value_ref::<Option<String>>(parts.first()?).ok()? {
            Some(host) if host == "?" => return None,
            Some(host) if !host.is_empty() => host,
            _ => asked.host.clone(),
        };
        let port = redis::from_redis_value_ref(parts.get(1)?).ok()?;
        Some(Node { host, port })
    };
    // Without an address for the master nobody can be reached: a replica must not pass for it.
    let master = node(parts.get(2)?)?;
    let replicas = parts.iter().skip(3).filter_map(node);
    Some(Shard {
        from: u16::try_from(*from).ok()?,
        to: u16::try_from(*to).ok()?,
        nodes: std::iter::once(master).chain(replicas).collect(),
    })
}

/// The same server settings for another address; `tls`: other than those say.
fn at(info: ConnectionInfo, node: &Node, tls: Option<bool>) -> ConnectionInfo {
    let (host, port) = (node.host.clone(), node.port);
    let addr = match (info.addr(), tls) {
        (ConnectionAddr::TcpTls { .. }, Some(false)) => ConnectionAddr::Tcp(host, port),
        (
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            },
            _,
        ) => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        (_, Some(true)) => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.set_addr(addr)
}

fn open(
    info: ConnectionInfo,
    connect: Duration,
    answer: Duration,
) -> Result<Connection, RedisError> {
    let con = redis::Client::open(info)?.get_connection_with_timeout(connect)?;
    con.set_read_timeout(Some(answer))?;
    con.set_write_timeout(Some(answer))?;
    Ok(con)
}

/// Whether a server said it, such as that it refuses a password.
fn is_word(error: &RedisError) -> bool {
    error.code().is_some() || matches!(error.kind(), ErrorKind::AuthenticationFailed)
}

/// Nothing that could be used: like a server that does not answer.
fn failure(text: String) -> RedisError {
    std::io::Error::other(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn a_node_without_a_name_is_the_one_that_was_asked_and_an_unknown_master_is_nobody() {
        let asked = Node {
            host: "10.0.0.9".to_owned(),
            port: 1,
        };
        let node = |host: Value| Value::Array(vec![host, Value::Int(7001), text("id")]);
        let entry = |nodes: Vec<Value>| {
            Value::Array([vec![Value::Int(0), Value::Int(5460)], nodes].concat())
        };
        let named = shard(&entry(vec![node(text("::1")), node(text("b"))]), &asked).unwrap();
        assert_eq!((named.from, named.to), (0, 5460));
        let texts: Vec<String> = named.nodes.iter().map(Node::to_string).collect();
        assert_eq!(texts, ["[::1]:7001", "b:7001"]);
        for host in [text(""), Value::Nil] {
            let own = shard(&entry(vec![node(host)]), &asked).unwrap();
            assert_eq!(own.nodes[0].to_string(), "10.0.0.9:7001");
        }
        assert!(shard(&entry(vec![node(text("?")), node(text("b"))]), &asked).is_none());
        assert!(shard(&Value::Nil, &asked).is_none());
    }
}
