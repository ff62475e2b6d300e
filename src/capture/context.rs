//! What spans say of those inside them: correlation, tenant, actor. Kept while the span is open, for questions that the
//! application's own thread asks: which id is current, whose request is this?
//!
//! The table is the process's, keyed by l0's own span ids. A span without such fields has no entry. The buffers of closed
//! spans are used again.

use std::{sync::LazyLock, time::Duration};

use crossbeam_utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use tracing_core::Metadata;

use crate::{
    correlation,
    record::{Record, Value, key},
};

const SHARDS: usize = 16;
/// Buffers kept for the next span, per shard.
const FREE_MAX: usize = 64;
/// In a forked child a lock may be held by a thread that is not there.
const LOCK_WITHIN: Duration = Duration::from_millis(20);

/// Fields whose values reach into a span; those of an event need no table.
pub(super) const FIELDS: [&str; 4] = ["correlation_id", "tenant_id", "actor_id", "traceparent"];

/// What one span says; empty texts say nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    pub(super) correlation_id: String,
    pub(super) tenant_id: String,
    pub(super) actor_id: String,
}

impl Context {
    pub(super) fn clear(&mut self) {
        self.correlation_id.clear();
        self.tenant_id.clear();
        self.actor_id.clear();
    }
}

#[derive(Debug, Default)]
struct Shard {
    of: FxHashMap<u64, Context>,
    free: Vec<Context>,
}

static SHARDS_OF_PROCESS: LazyLock<[CachePadded<Mutex<Shard>>; SHARDS]> = LazyLock::new(Default::default);

fn shard(id: u64) -> Option<MutexGuard<'static, Shard>> {
    SHARDS_OF_PROCESS[(id % SHARDS as u64) as usize].try_lock_for(LOCK_WITHIN)
}

/// Asks what the span says.
pub(super) fn with<R>(id: u64, f: impl FnOnce(&Context) -> R) -> Option<R> {
    if id == 0 {
        return None;
    }
    shard(id)?.of.get(&id).map(f)
}

/// Whether the span has a correlation id of its own.
pub(super) fn is_named(id: u64) -> bool {
    with(id, |context| !context.correlation_id.is_empty()).unwrap_or(false)
}

/// Lets the span say more; a new entry begins with the tenant and actor of `parent`.
pub(super) fn put(id: u64, parent: u64, found: &Context) {
    let known = shard(id).map(|mut shard| (shard.of.contains_key(&id), shard.free.pop()));
    let Some((is_known, free)) = known else { return };
    let mut fresh = free.unwrap_or_default();
    fresh.clear();
    if !is_known {
        with(parent, |parent| {
            fresh.tenant_id.push_str(&parent.tenant_id);
            fresh.actor_id.push_str(&parent.actor_id);
        });
    }
    let Some(mut shard) = shard(id) else { return };
    if is_known {
        shard.free.push(fresh);
    } else {
        shard.of.insert(id, fresh);
    }
    let Some(context) = shard.of.get_mut(&id) else { return };
    for (place, text) in [
        (&mut context.correlation_id, &found.correlation_id),
        (&mut context.tenant_id, &found.tenant_id),
        (&mut context.actor_id, &found.actor_id),
    ] {
        if !text.is_empty() {
            place.clone_from(text);
        }
    }
}

/// The span is closed.
pub(super) fn remove(id: u64) {
    let Some(mut shard) = shard(id) else { return };
    if let Some(context) = shard.of.remove(&id)
        && shard.free.len() < FREE_MAX
    {
        shard.free.push(context);
    }
}

/// Reads what an encoded record says, into `found`; says whether it is anything. `may_be_named` by its `traceparent`.
pub(super) fn read(metadata: &Metadata<'_>, bytes: &[u8], may_be_named: bool, found: &mut Context) -> bool {
    found.clear();
    let Ok(mut record) = Record::decode(bytes) else { return false };
    while let Ok(Some((number, value))) = record.next_field() {
        if number >= key::FIRST || value == Value::Redacted {
            continue;
        }
        let name = metadata.fields().iter().nth(usize::from(number)).map_or("", |field| field.name());
        let place = match name {
            "correlation_id" | "traceparent" => &mut found.correlation_id,
            "tenant_id" => &mut found.tenant_id,
            "actor_id" => &mut found.actor_id,
            _ => continue,
        };
        let before = place.len();
        if name == "traceparent" {
            let Value::Text(header) = value else { continue };
            if may_be_named
                && before == 0
                && let Some(context) = correlation::read_traceparent(header)
            {
                let mut buffer = uuid::Uuid::encode_buffer();
                place.push_str(context.trace_uuid().simple().encode_lower(&mut buffer));
            }
            continue;
        }
        if name == "correlation_id" {
            // One that is no id says nothing; what a `traceparent` said before stays.
            value.write_text(place);
            if correlation::is_valid(&place[before..]) {
                place.drain(..before);
            } else {
                place.truncate(before);
            }
            continue;
        }
        place.clear();
        value.write_text(place);
    }
    !(found.correlation_id.is_empty() && found.tenant_id.is_empty() && found.actor_id.is_empty())
}
