//! Changes to what waits, within the append's transaction: one statement for each kind of change.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;

use super::super::rows::{failed, signed};
use super::super::{Deferred, Parked, RELEASED_TOGETHER, Result, Waits};
use super::{Query, list};

pub(super) async fn change(connection: &mut PgConnection, waits: &Waits) -> Result<()> {
    let Waits { park, unpark, defer, cancel, resolve } = waits;
    let queries = [
        (!park.is_empty()).then(|| insert_parked(park)),
        (!park.is_empty()).then(|| sqlx::query(FIRST).bind(park.iter().map(|p| signed(p.stream)).collect::<Vec<_>>())),
        (!unpark.is_empty()).then(|| release(unpark)),
        (!defer.is_empty()).then(|| insert_deferred(defer)),
        (!cancel.is_empty()).then(|| sqlx::query(CANCEL).bind(list(cancel))),
        (!resolve.is_empty()).then(|| sqlx::query("DELETE FROM dead WHERE key = ANY($1)").bind(list(resolve))),
    ];
    for query in queries.into_iter().flatten() {
        query.execute(&mut *connection).await.map_err(|e| failed("change what waits", &e))?;
    }
    Ok(())
}

const PARK: &str = "\
INSERT INTO parked SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bigint[], $6::boolean[],
                                        $7::boolean[], $8::bigint[], $9::bytea[], $10::bytea[])
ON CONFLICT (stream) DO UPDATE SET entity = excluded.entity, key = excluded.key, digest = excluded.digest,
    due = excluded.due, holds = excluded.holds, cancelled = excluded.cancelled, attempts = excluded.attempts,
    subject = excluded.subject, payload = excluded.payload";

fn column<'q, T>(park: &BTreeMap<u64, &'q Parked>, get: impl Fn(&'q Parked) -> T) -> Vec<T> {
    park.values().map(|parked| get(parked)).collect()
}

fn insert_parked(park: &[Parked]) -> Query<'_> {
    // Of two that are the same event the last counts.
    let park: BTreeMap<u64, &Parked> = park.iter().map(|parked| (parked.stream, parked)).collect();
    sqlx::query(PARK)
        .bind(column(&park, |p| signed(p.stream)))
        .bind(column(&park, |p| p.entity.as_bytes()))
        .bind(column(&park, |p| &p.key.0[..]))
        .bind(column(&park, |p| &p.digest.0[..]))
        .bind(column(&park, |p| p.due_ms))
        .bind(column(&park, |p| p.holds))
        .bind(column(&park, |p| p.cancelled))
        .bind(column(&park, |p| i64::from(p.attempts)))
        .bind(column(&park, |p| p.subject.as_bytes()))
        .bind(column(&park, |p| &p.payload[..]))
}

/// What would only wait behind others, and has nobody before it, has its turn.
const FIRST: &str = "\
UPDATE parked p SET due = 0 WHERE stream = ANY($1) AND due IS NULL AND NOT EXISTS (
    SELECT 1 FROM parked q WHERE sha256(q.entity) = sha256(p.entity) AND q.holds AND q.stream < p.stream)";

/// Parked events are decided; those behind them have their turn. The statement still sees what it deletes.
const RELEASE: &str = "\
WITH gone AS (DELETE FROM parked WHERE stream = ANY($1) RETURNING entity, holds)
UPDATE parked SET due = 0 WHERE due IS NULL AND stream IN (
    SELECT next.stream FROM (SELECT DISTINCT entity FROM gone WHERE holds) held CROSS JOIN LATERAL (
        SELECT stream FROM parked p WHERE sha256(p.entity) = sha256(held.entity) AND holds AND stream <> ALL($1)
        ORDER BY stream LIMIT $2) next)";

fn release(unpark: &[u64]) -> Query<'static> {
    let streams: Vec<i64> = unpark.iter().map(|stream| signed(*stream)).collect();
    sqlx::query(RELEASE).bind(streams).bind(signed(RELEASED_TOGETHER as u64))
}

const DEFER: &str = "\
INSERT INTO deferred SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[])
ON CONFLICT (key) DO UPDATE SET due = excluded.due, sequence = excluded.sequence, subject = excluded.subject,
    payload = excluded.payload";

fn insert_deferred(defer: &[Deferred]) -> Query<'_> {
    let defer: BTreeMap<_, &Deferred> = defer.iter().map(|deferred| (deferred.key, deferred)).collect();
    sqlx::query(DEFER)
        .bind(defer.values().map(|d| &d.key.0[..]).collect::<Vec<_>>())
        .bind(defer.values().map(|d| d.due_ms).collect::<Vec<_>>())
        .bind(defer.values().map(|d| signed(d.sequence)).collect::<Vec<_>>())
        .bind(defer.values().map(|d| d.subject.as_bytes()).collect::<Vec<_>>())
        .bind(defer.values().map(|d| &d.payload[..]).collect::<Vec<_>>())
}

const CANCEL: &str = "\
WITH outputs AS (DELETE FROM deferred WHERE key = ANY($1))
UPDATE parked SET due = 0, cancelled = true WHERE NOT holds AND key = ANY($1)";
