//! The lower bound of a write: the changed rows by binary COPY into an empty unlogged table, without an index, old values,
//! history or write-ahead log. The sections of `write` compare the daemon's commit with it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::encode::{Encode, IsNull};
use sqlx::postgres::PgArgumentBuffer;
use sqlx::{Executor, PgConnection, Postgres};

use crate::fixture::Fixture;
use oddsd_store::StoreSettings;

const TABLE: &str = "
CREATE SCHEMA IF NOT EXISTS bench;
CREATE UNLOGGED TABLE IF NOT EXISTS bench.narrow (
    id           bigint NOT NULL,
    decimal      numeric NOT NULL,
    fractional   text,
    point        numeric,
    ew_places    integer,
    ew_denom     integer,
    status       text NOT NULL,
    observed_at  timestamptz NOT NULL
)";
const COPY: &str = "COPY bench.narrow FROM STDIN (FORMAT binary)";
/// From PostgreSQL's documentation: signature, flags, length of the extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COLUMNS: i16 = 8;
const NO_MORE: i16 = -1;
/// Bytes sent at once.
const CHUNK: usize = 128 * 1024;
const ROW_BYTES: usize = 128;

struct BaselineRow {
    id: i64,
    decimal: Decimal,
    fractional: &'static str,
    observed_at: DateTime<Utc>,
}

pub struct CopyBaseline(PgConnection);

impl CopyBaseline {
    pub async fn new(mut connection: PgConnection) -> anyhow::Result<Self> {
        connection.execute(TABLE).await?;
        Ok(Self(connection))
    }

    /// Over another address of the server.
    pub async fn through(settings: &StoreSettings) -> anyhow::Result<Self> {
        Self::new(crate::database::connect(settings).await?).await
    }

    /// Copies the rows at these positions; encoding them counts, emptying the table before does not.
    pub async fn copy(&mut self, fixture: &Fixture, changed: &[usize]) -> anyhow::Result<Duration> {
        let rows: Vec<BaselineRow> = changed
            .iter()
            .map(|&at| BaselineRow {
                id: at as i64,
                decimal: fixture.decimal(at),
                fractional: fixture.fractional(at),
                observed_at: fixture.observed_at(at),
            })
            .collect();
        self.0.execute("TRUNCATE bench.narrow").await?;
        let started = Instant::now();
        let mut copy = self.0.copy_in_raw(COPY).await?;
        let mut buffer = PgArgumentBuffer::default();
        buffer.reserve(CHUNK + ROW_BYTES);
        buffer.extend_from_slice(HEADER);
        for row in &rows {
            row.encode(&mut buffer)?;
            if buffer.len() >= CHUNK {
                copy.send(buffer.as_slice()).await?;
                buffer.clear();
            }
        }
        buffer.extend_from_slice(&NO_MORE.to_be_bytes());
        copy.send(buffer.as_slice()).await?;
        copy.finish().await?;
        let took = started.elapsed();

        let stored: (i64, i64) = sqlx::query_as(
            "SELECT count(*), coalesce(sum(decimal * 1000), 0)::bigint FROM bench.narrow",
        )
        .fetch_one(&mut self.0)
        .await?;
        let sent: i64 = changed.iter().map(|&at| fixture.thousandths(at)).sum();
        ensure!(
            stored == (changed.len() as i64, sent),
            "COPY stored {stored:?} of {:?}",
            (changed.len(), sent)
        );
        Ok(took)
    }

    /// One bare round trip.
    pub async fn round_trip(&mut self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        sqlx::query_scalar::<_, i32>("SELECT 1")
            .fetch_one(&mut self.0)
            .await?;
        Ok(started.elapsed())
    }
}

impl BaselineRow {
    fn encode(&self, buffer: &mut PgArgumentBuffer) -> anyhow::Result<()> {
        buffer.extend_from_slice(&COLUMNS.to_be_bytes());
        append_value(buffer, &self.id)?;
        append_value(buffer, &self.decimal)?;
        append_value(buffer, &self.fractional)?;
        append_value(buffer, &None::<Decimal>)?;
        append_value(buffer, &3i32)?;
        append_value(buffer, &5i32)?;
        append_value(buffer, &"open")?;
        append_value(buffer, &self.observed_at)
    }
}

/// The length in bytes and the value; the length −1 is NULL.
fn append_value<'q>(
    buffer: &mut PgArgumentBuffer,
    value: &impl Encode<'q, Postgres>,
) -> anyhow::Result<()> {
    let start = buffer.len();
    buffer.extend_from_slice(&(-1i32).to_be_bytes());
    let encoded = value.encode_by_ref(buffer);
    let encoded = encoded.map_err(|why| anyhow::anyhow!("cannot encode a value: {why}"))?;
    if let IsNull::No = encoded {
        let length =
            i32::try_from(buffer.len() - start - 4).context("a value that is too long for COPY")?;
        buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}
