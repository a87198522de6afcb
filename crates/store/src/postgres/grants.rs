//! Grants on the compatibility views; `migrate` calls it after it has created one.
//! A view reads its tables with its owner's rights and ignores row security, so a grant on a table whose rows
//! were restricted is not copied.

use sqlx::PgConnection;

use super::{execute, map_error};
use crate::Result;

/// Revokes all writes, which the database's default privileges may have granted.
pub async fn revoke_writes(connection: &mut PgConnection, view: &str) -> Result<()> {
    for (role, _) in granted(connection, view).await? {
        let writes = "INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER";
        execute(connection, format!("REVOKE {writes} ON {view} FROM {role}")).await?;
    }
    Ok(())
}

/// Grants the view to the roles that could read all rows of its backup, and to no other.
pub async fn copy_from_backup(
    connection: &mut PgConnection,
    view: &str,
    backup: &str,
) -> Result<Vec<String>> {
    for (role, _) in granted(connection, view).await? {
        execute(connection, format!("REVOKE ALL ON {view} FROM {role}")).await?;
    }
    let mut report = Vec::new();
    for (role, sees_all) in granted(connection, backup).await? {
        if sees_all {
            execute(connection, format!("GRANT SELECT ON {view} TO {role}")).await?;
        } else {
            report.push(format!(
                "{role} may no longer read {view}: row security let it see only some rows of the table, and a view \
                 shows all of them; if that is meant, GRANT SELECT ON {view} TO {role}"
            ));
        }
    }
    Ok(report)
}

/// Roles that may SELECT, as they are written in SQL, and whether row security shows them every row.
async fn granted(connection: &mut PgConnection, relation: &str) -> Result<Vec<(String, bool)>> {
    let granted = sqlx::query_as(
        "SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS role,
                NOT k.relrowsecurity OR coalesce(r.rolbypassrls OR r.rolsuper, false)
                OR (EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = k.oid AND p.polpermissive AND p.polcmd IN ('r', '*')
                            AND (0 = ANY (p.polroles) OR a.grantee = ANY (p.polroles))
                            AND pg_get_expr(p.polqual, p.polrelid) = 'true')
                    AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = k.oid AND NOT p.polpermissive)) AS sees_all
         FROM pg_class k, aclexplode(k.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
         WHERE k.oid = to_regclass($1) AND a.privilege_type = 'SELECT' AND a.grantee <> k.relowner
         ORDER BY role",
    );
    let granted = granted.bind(relation).fetch_all(connection).await;
    granted.map_err(map_error)
}
