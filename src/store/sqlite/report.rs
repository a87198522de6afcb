//! Changes that other writers report.

use super::{Sqlite, explain, now};
use crate::model::Reported;
use crate::store::others::detail;
use crate::store::{Result, to_the_end};

impl Sqlite {
    pub async fn report(&self, changes: Vec<Reported>) -> Result<()> {
        let db = self.clone();
        let rows = changes
            .iter()
            .map(|change| {
                let event = change.event.as_ref().map(|event| event.as_str());
                (change.kind.as_str(), event, detail(change))
            })
            .collect::<Vec<_>>();
        let rows = serde_json::to_string(&rows).expect("texts are JSON");
        to_the_end(async move {
            sqlx::query(
                "INSERT INTO outbox (kinds, event_key, detail, created_at, due_at)
                 SELECT value ->> 0, value ->> 1, value ->> 2, ?2, ?2 FROM json_each(?1)",
            )
            .bind(rows)
            .bind(now())
            .execute(&db.writer)
            .await
            .map(drop)
            .map_err(explain)
        })
        .await
    }
}
