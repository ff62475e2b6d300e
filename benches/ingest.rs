//! From the first macro until the last row can be asked for: 200,000 events, nothing lost, beside the same rows inserted
//! by a bare prepared statement and the same events as lines of a JSON file.

#[allow(dead_code, unreachable_pub)]
mod support;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rusqlite::{Connection, params_from_iter, types::Value};
use support::{Json, L0, Peer as _, event};
use tracing::dispatcher::with_default;

const EVENTS: u64 = 200_000;
const COLUMNS: &str = "at, run, severity, callsite, span, trace, message, payload";

fn through_l0() -> (Duration, L0) {
    let peer = L0::new(l0::Overload::Block(Duration::from_secs(60)));
    let start = Instant::now();
    with_default(&peer.dispatch(), || (0..EVENTS).for_each(event));
    peer.l0.flush().unwrap();
    let elapsed = start.elapsed();
    let stats = peer.l0.stats();
    assert_eq!((stats.stored, stats.shed), (EVENTS, 0));
    (elapsed, peer)
}

/// The rows that l0 stores for these events, and how many it commits at a time.
fn encoded_rows() -> (Vec<Vec<Value>>, usize) {
    let (_, peer) = through_l0();
    let commits = peer.l0.stats().commits;
    let connection = open(&peer.l0.dir().join("telemetry.db"));
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM event ORDER BY at")).unwrap();
    let rows = statement
        .query_map([], |row| (0..8).map(|index| row.get(index)).collect::<Result<Vec<Value>, _>>())
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    (rows, (EVENTS / commits.max(1)) as usize)
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA cache_size = -8192; PRAGMA journal_size_limit = 16777216;",
        )
        .unwrap();
    connection
}

fn bare(rows: &[Vec<Value>], batch: usize) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let connection = open(&dir.path().join("bare.db"));
    connection.execute_batch(include_str!("../src/store/schema/0001.sql")).unwrap();
    let start = Instant::now();
    for batch in rows.chunks(batch) {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut insert = connection
            .prepare_cached(&format!("INSERT INTO event ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"))
            .unwrap();
        for row in batch {
            insert.execute(params_from_iter(row)).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
    }
    start.elapsed()
}

fn through_json() -> Duration {
    let mut peer = Json::new(false);
    let start = Instant::now();
    with_default(&peer.dispatch(), || (0..EVENTS).for_each(event));
    peer.expect(EVENTS);
    let written = peer.finish();
    let elapsed = start.elapsed();
    assert_eq!(written, EVENTS);
    elapsed
}

fn ingest(c: &mut Criterion) {
    let mut group = c.benchmark_group("ingest");
    group.throughput(Throughput::Elements(EVENTS)).sample_size(10).measurement_time(Duration::from_secs(8));
    let repeat = |iterations: u64, once: &mut dyn FnMut() -> Duration| (0..iterations).map(|_| once()).sum();
    group.bench_function("l0", |b| b.iter_custom(|n| repeat(n, &mut || through_l0().0)));
    let (rows, batch) = encoded_rows();
    group.bench_function("raw_sqlite", |b| b.iter_custom(|n| repeat(n, &mut || bare(&rows, batch))));
    group.bench_function("json_appender", |b| b.iter_custom(|n| repeat(n, &mut through_json)));
    group.finish();
}

criterion_group!(benches, ingest);
criterion_main!(benches);
