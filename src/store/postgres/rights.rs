//! Who may read our views. A view reads the tables with its owner's rights, past row security: so
//! a right that row security held in check on the old table is not simply copied.

use sqlx::{PgConnection, Row};

use super::explain;
use super::migrate::run;
use crate::store::Result;

/// Nobody writes through a view of ours, whatever the database's default privileges hand out.
pub async fn read_only(connection: &mut PgConnection, view: &str) -> Result<()> {
    for (role, _) in granted(connection, view).await? {
        let writes = "INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER";
        run(connection, format!("REVOKE {writes} ON {view} FROM {role}")).await?;
    }
    Ok(())
}

/// Gives the view to those who could read all rows of what stands aside, and to nobody else.
pub async fn keep(connection: &mut PgConnection, view: &str, aside: &str) -> Result<Vec<String>> {
    for (role, _) in granted(connection, view).await? {
        run(connection, format!("REVOKE ALL ON {view} FROM {role}")).await?;
    }
    let mut said = Vec::new();
    for (role, sees_all) in granted(connection, aside).await? {
        if sees_all {
            run(connection, format!("GRANT SELECT ON {view} TO {role}")).await?;
        } else {
            said.push(format!(
                "{role} may no longer read {view}: row security let it see only some rows of the table, and a view \
                 shows all of them; if that is meant, GRANT SELECT ON {view} TO {role}"
            ));
        }
    }
    Ok(said)
}

/// Roles that may SELECT, as they are written in SQL, and whether row security shows them every row.
async fn granted(connection: &mut PgConnection, relation: &str) -> Result<Vec<(String, bool)>> {
    let rows = sqlx::query(
        "SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS role,
                NOT k.relrowsecurity OR coalesce(r.rolbypassrls OR r.rolsuper, false)
                OR (EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = k.oid AND p.polpermissive AND p.polcmd IN ('r', '*')
                            AND (0 = ANY (p.polroles) OR a.grantee = ANY (p.polroles))
                            AND pg_get_expr(p.polqual, p.polrelid) = 'true')
                    AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = k.oid AND NOT p.polpermissive)) AS sees_all
         FROM pg_class k, aclexplode(k.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
         WHERE k.oid = to_regclass($1) AND a.privilege_type = 'SELECT' AND a.grantee <> k.relowner
         ORDER BY role",
    )
    .bind(relation)
    .fetch_all(connection)
    .await
    .map_err(explain)?;
    Ok(rows
        .iter()
        .map(|row| (row.get("role"), row.get("sees_all")))
        .collect())
}
