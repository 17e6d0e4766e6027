//! What every command on a live system begins with. They need Redis and nothing else.

use super::UNAVAILABLE;
use crate::config::StoreConfig;
use crate::store::Fault;
use crate::store::view::View;

pub(super) fn open(store: &StoreConfig) -> Result<View, u8> {
    View::open(&store.redis.server(), &store.namespace, &store.inbox).map_err(|fault| away(&fault))
}

pub(super) fn away(fault: &Fault) -> u8 {
    eprintln!("fal-worker: {fault}");
    UNAVAILABLE
}
