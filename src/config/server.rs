//! How a Redis is found: at one address, by the name that sentinels know its master under, or by the slot
//! that our keys have in a cluster. Here the forms of the URL are read; `store/topology.rs` does the finding.
//! Errors never repeat the text, as in `url.rs`.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use std::fmt;

/// Host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whom to ask where the server is.
#[derive(Clone, Debug)]
pub enum Way {
    /// Nobody: its address is fixed.
    Fixed,
    /// Sentinels, for the master of this name.
    Sentinel {
        /// All that the URL names.
        nodes: Vec<Node>,
        /// Name of the master.
        master: String,
        /// User and password of the sentinels themselves; prints without them.
        login: RedisConnectionInfo,
        /// Whether the sentinels are spoken to by TLS.
        tls: bool,
    },
    /// Nodes of a cluster, for the master of our slot.
    Cluster {
        /// All that the URL names.
        nodes: Vec<Node>,
    },
}

/// A server, and how it is found. Prints without its password.
#[derive(Clone, Debug)]
pub struct Server {
    /// User, password, database and TLS; the address counts only where it is fixed.
    pub info: ConnectionInfo,
    /// How the address is found.
    pub way: Way,
}

impl From<ConnectionInfo> for Server {
    fn from(info: ConnectionInfo) -> Server {
        Server {
            info,
            way: Way::Fixed,
        }
    }
}

impl fmt::Display for Server {
    /// Where it is looked for, without a word of who we are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Fixed => write!(f, "{}", self.info.addr()),
            Way::Sentinel { nodes, master, .. } => {
                write!(f, "the master {master} of the sentinels {}", joined(nodes))
            }
            Way::Cluster { nodes } => write!(f, "the cluster at {}", joined(nodes)),
        }
    }
}

pub(super) fn joined(nodes: &[Node]) -> String {
    let texts: Vec<String> = nodes.iter().map(Node::to_string).collect();
    texts.join(",")
}

/// What a URL of several nodes says.
pub(super) struct Several {
    pub(super) server: Server,
    /// Passwords as the URL spells them.
    pub(super) written: Vec<String>,
}

/// Reads `redis-sentinel://[user[:password]@]host[:port],…/name[/db][?sentinel_user=…&sentinel_password=…]`
/// and `redis-cluster://[user[:password]@]host[:port],…`; `rediss-` for TLS. `None`: another scheme.
pub(super) fn several(scheme: &str, rest: &str) -> Option<Result<Several, String>> {
    let (tls, sentinel) = match scheme {
        "redis-sentinel" => (false, true),
        "rediss-sentinel" => (true, true),
        "redis-cluster" => (false, false),
        "rediss-cluster" => (true, false),
        _ => return None,
    };
    Some(if sentinel {
        by_sentinels(tls, rest)
    } else {
        in_cluster(tls, rest)
    })
}

fn by_sentinels(tls: bool, rest: &str) -> Result<Several, String> {
    let form = || "write redis-sentinel://host,host,host/name/db, name as the sentinels know it";
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').ok_or_else(form)?;
    let (master, db) = path.split_once('/').unwrap_or((path, "0"));
    // Sentinel itself refuses other names.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if master.is_empty() || !master.bytes().all(is_name) {
        return Err(form().into());
    }
    let (user, nodes) = split_user(authority, 26379)?;
    let info = template(tls, user, &nodes[0], db)?;
    let (mut sentinel_user, mut sentinel_password, mut sentinels_tls) = ("", "", tls);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel_user", text)) => sentinel_user = text,
            Some(("sentinel_password", text)) => sentinel_password = text,
            Some(("sentinel_tls", "true")) => sentinels_tls = true,
            Some(("sentinel_tls", "false")) => sentinels_tls = false,
            _ => {
                return Err(
                    "behind the ? only sentinel_user, sentinel_password and sentinel_tls=true or \
                     false are known"
                        .into(),
                );
            }
        }
    }
    if !sentinel_user.is_empty() && sentinel_password.is_empty() {
        return Err("sentinel_user needs a sentinel_password".into());
    }
    let own = match sentinel_password {
        "" => None,
        password => Some(format!("{sentinel_user}:{password}")),
    };
    let login = template(false, own.as_deref(), &nodes[0], "0")?;
    let way = Way::Sentinel {
        nodes,
        master: master.to_owned(),
        login: login.redis_settings().clone(),
        tls: sentinels_tls,
    };
    let written = [password_of(user), sentinel_password.to_owned()];
    Ok(Several {
        server: Server { info, way },
        written: written.into(),
    })
}

fn in_cluster(tls: bool, rest: &str) -> Result<Several, String> {
    if rest.contains(['?', '#']) {
        return Err("no query and no fragment; in a password write ? as %3F and # as %23".into());
    }
    let (authority, db) = rest.split_once('/').unwrap_or((rest, ""));
    if !matches!(db, "" | "0") {
        return Err("a cluster has no databases but 0".into());
    }
    let (user, nodes) = split_user(authority, 6379)?;
    Ok(Several {
        server: Server {
            info: template(tls, user, &nodes[0], "0")?,
            way: Way::Cluster { nodes },
        },
        written: vec![password_of(user)],
    })
}

fn password_of(user: Option<&str>) -> String {
    let password = user.and_then(|user| user.split_once(':'));
    password.map_or("", |(_, password)| password).to_owned()
}

fn split_user(authority: &str, port: u16) -> Result<(Option<&str>, Vec<Node>), String> {
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    let nodes: Option<Vec<Node>> = hosts.split(',').map(|host| node(host, port)).collect();
    let nodes = nodes.filter(|nodes| nodes.len() <= 32);
    nodes
        .map(|nodes| (user, nodes))
        .ok_or_else(|| "the hosts are not like host,host:port".into())
}

/// Read as the redis crate reads a host, so that both mean the same.
fn node(text: &str, port: u16) -> Option<Node> {
    if text.is_empty() || text.contains(['/', '@', '?', '#']) {
        return None;
    }
    let has_port = text
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']'));
    let text = if has_port {
        format!("redis://{text}")
    } else {
        format!("redis://{text}:{port}")
    };
    match text.as_str().into_connection_info().ok()?.addr() {
        ConnectionAddr::Tcp(host, port) if *port != 0 => Some(Node {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: *port,
        }),
        _ => None,
    }
}

/// What is the same for every node. The crate takes the percent signs out of user and password.
fn template(
    tls: bool,
    user: Option<&str>,
    node: &Node,
    db: &str,
) -> Result<ConnectionInfo, String> {
    if !db.bytes().all(|byte| byte.is_ascii_digit()) || db.is_empty() {
        return Err("the database is no number".into());
    }
    let scheme = if tls { "rediss" } else { "redis" };
    let user = user.map_or(String::new(), |user| format!("{user}@"));
    let url = format!("{scheme}://{user}{node}/{db}");
    // The crate's texts are constants: they never repeat the URL.
    url.as_str()
        .into_connection_info()
        .map_err(|error| format!("cannot be used: {error}"))
}

/// The slot that a cluster gives a key: CRC16 of what stands in its first braces, or of all of it.
pub fn slot(key: &str) -> u16 {
    let hashed = hash_tag(key).unwrap_or(key);
    let crc = hashed.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    });
    crc % 16_384
}

/// What stands in the first braces, if anything does: `fal` of `{fal}:inbox`.
pub(super) fn hash_tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // As `redis-cli CLUSTER KEYSLOT` gives them.
        for (key, expected) in [
            ("", 0),
            ("123456789", 12_739),
            ("foo", 12_182),
            ("{foo}:job:x{y}", 12_182),
            ("a{foo}b", 12_182),
            ("{}foo", slot_of_all("{}foo")),
            ("{foo", slot_of_all("{foo")),
        ] {
            assert_eq!(slot(key), expected, "{key}");
        }
        assert_eq!(slot("{fal}:inbox"), slot("{fal}:job:1"));
        assert_ne!(slot("fal:inbox"), slot("fal:bell"));
    }

    /// Where there is no tag, braces are letters like others: any key around them differs.
    fn slot_of_all(key: &str) -> u16 {
        assert_eq!(hash_tag(key), None);
        slot(key)
    }
}
