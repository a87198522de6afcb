//! Changes that other writers report.

use super::wire::array;
use super::{Postgres, explain};
use crate::model::Reported;
use crate::store::Result;
use crate::store::others::detail;

impl Postgres {
    pub async fn report(&self, changes: Vec<Reported>) -> Result<()> {
        let db = self.clone();
        self.to_the_end(async move {
            sqlx::query(
                "WITH told AS (INSERT INTO oddsd.outbox (kinds, event_key, detail)
                               SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) RETURNING id)
                 SELECT pg_notify('oddsd_outbox', '') WHERE EXISTS (SELECT FROM told)",
            )
            .bind(array(&changes, |change| change.kind.as_str()))
            .bind(array(&changes, |change| {
                change.event.as_ref().map(|event| event.as_str())
            }))
            .bind(array(&changes, detail))
            .execute(&mut *db.connection().await?)
            .await
            .map(drop)
            .map_err(explain)
        })
        .await
    }
}
