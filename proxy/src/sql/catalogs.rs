//! System catalogs that hold table data, other people's statements or secrets.
//!
//! Reading them tells what masking hides: statistics carry sample values, activity views carry statements with literals,
//! user mappings and roles carry passwords. A deny list, because catalogs that only describe are needed by every client.
//! Known limit: extensions that bring such views of their own are matched by name only if listed here.

use crate::model::RelationName;

/// Whether a relation as written may be a catalog that leaks data. Unqualified names count, since `pg_catalog` is
/// searched first.
#[must_use]
pub fn is_leaky_catalog(name: &RelationName) -> bool {
    match name.schema.as_deref() {
        // Extension views live in any schema.
        _ if ANYWHERE.contains(&name.name.as_str()) => true,
        None | Some("pg_catalog") => LEAKY.binary_search(&name.name.as_str()).is_ok(),
        Some("information_schema") => {
            matches!(name.name.as_str(), "user_mapping_options" | "_pg_user_mappings")
        }
        Some("pg_toast") => true,
        Some(_) => false,
    }
}

const ANYWHERE: &[&str] =
    &["pg_stat_statements", "pg_stat_statements_info", "pg_stat_monitor", "pg_buffercache"];

/// Sorted.
const LEAKY: &[&str] = &[
    "pg_authid",
    "pg_backend_memory_contexts",
    "pg_cursors",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_largeobject",
    "pg_prepared_statements",
    "pg_prepared_xacts",
    "pg_replication_origin_status",
    "pg_replication_slots",
    "pg_shadow",
    "pg_stat_activity",
    "pg_stat_subscription",
    "pg_stat_wal_receiver",
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_subscription",
    "pg_user_mapping",
    "pg_user_mappings",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn leaky(schema: Option<&str>, name: &str) -> bool {
        is_leaky_catalog(&RelationName { schema: schema.map(str::to_owned), name: name.to_owned() })
    }

    #[test]
    fn catalogs_with_data_or_statements_leak() {
        assert!(LEAKY.is_sorted());
        assert!(leaky(None, "pg_stats"));
        assert!(leaky(Some("pg_catalog"), "pg_stat_activity"));
        assert!(leaky(Some("public"), "pg_stat_statements"));
        assert!(leaky(Some("pg_toast"), "pg_toast_16384"));
        assert!(leaky(Some("information_schema"), "user_mapping_options"));
    }

    #[test]
    fn catalogs_that_describe_do_not() {
        for name in ["pg_class", "pg_attribute", "pg_settings", "pg_type", "pg_roles", "pg_stat_user_tables"]
        {
            assert!(!leaky(Some("pg_catalog"), name), "{name}");
        }
        assert!(!leaky(Some("public"), "pg_stats"));
    }
}
