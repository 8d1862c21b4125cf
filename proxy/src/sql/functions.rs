//! Which functions and operators are built-in and known, by name.
//!
//! `functions.txt` is the allow-list. Names outside it run code we cannot see; names in [`DANGEROUS`] run SQL text, read
//! files or other sessions, or change server state, and make a statement unknown even if an operator allows functions.
//! Known limit: by name, not by OID; a function that somebody created under a built-in name with other argument types
//! counts as built-in here. Whoever knows the catalog looks for those.

use std::collections::HashSet;
use std::sync::LazyLock;

/// What calling a function means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FunctionClass {
    /// Depends on its arguments, settings and catalogs only.
    Builtin,
    /// Built-in with a visible, small effect on shared state: sequences, advisory locks, notifications.
    Touches,
    /// `set_config`: as good or bad as the setting.
    SetConfig,
    /// Dynamic SQL, files, other sessions, server control.
    Dangerous,
    /// Not built-in: code we cannot see.
    Foreign,
}

/// Classifies a function by its name as written.
pub(super) fn classify(parts: &[&str]) -> FunctionClass {
    let (schema, name) = match parts {
        [name] => ("pg_catalog", *name),
        [schema, name] => (*schema, *name),
        // `database.schema.name` or nonsense.
        _ => return FunctionClass::Foreign,
    };
    if is_dangerous(name) {
        return FunctionClass::Dangerous;
    }
    match schema {
        "pg_catalog" => match name {
            "set_config" => FunctionClass::SetConfig,
            _ if TOUCHES.contains(&name) => FunctionClass::Touches,
            _ if BUILTIN.contains(name) => FunctionClass::Builtin,
            _ => FunctionClass::Foreign,
        },
        "information_schema" if BUILTIN.contains(parts.join(".").as_str()) => FunctionClass::Builtin,
        _ => FunctionClass::Foreign,
    }
}

/// Whether a function of that name in `pg_catalog` depends on its arguments, settings and catalogs only.
#[must_use]
pub fn is_plain_builtin(name: &str) -> bool {
    classify(&["pg_catalog", name]) == FunctionClass::Builtin
}

/// Whether `x.name` may be a function call on a whole row that returns the row's content.
///
/// PostgreSQL takes `c.to_jsonb` as `to_jsonb(c)` if there is no such column; any built-in name could be meant.
pub(super) fn may_take_row(name: &str) -> bool {
    ROW_TAKING.contains(&name)
}

/// Whether an operator as written is built-in.
pub(super) fn is_builtin_operator(parts: &[&str]) -> bool {
    match parts {
        [name] | ["pg_catalog", name] => {
            OPERATORS.contains(name)
                || matches!(*name, "BETWEEN" | "NOT BETWEEN" | "BETWEEN SYMMETRIC" | "NOT BETWEEN SYMMETRIC")
        }
        _ => false,
    }
}

fn is_dangerous(name: &str) -> bool {
    DANGEROUS.contains(&name) || DANGEROUS_STARTS.iter().any(|start| name.starts_with(start))
}

static BUILTIN: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    include_str!("functions.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect()
});

const TOUCHES: &[&str] = &[
    "nextval",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_notify",
    "setseed",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
];

const DANGEROUS: &[&str] = &[
    "connectby",
    "currval",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "fsm_page_contents",
    "get_raw_page",
    "http",
    "http_get",
    "http_post",
    "lastval",
    "loread",
    "lowrite",
    "pg_cancel_backend",
    "pg_cursor",
    "pg_current_logfile",
    "pg_export_snapshot",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_import_system_collations",
    "pg_log_backend_memory_contexts",
    "pg_mcv_list_items",
    "pg_prepared_statement",
    "pg_prepared_xact",
    "pg_promote",
    "pg_reload_conf",
    "pg_rotate_logfile",
    "pg_show_all_file_settings",
    "pg_show_replication_origin_status",
    "pg_stat_file",
    "pg_stat_get_activity",
    "pg_stat_get_backend_activity",
    "pg_stat_get_subscription",
    "pg_stat_get_wal_receiver",
    "pg_stat_get_wal_senders",
    "pg_stat_statements",
    "pg_switch_wal",
    "pg_terminate_backend",
    "plprofiler",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "setval",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "ts_rewrite",
    "ts_stat",
    "verify_heapam",
    "xpath_table",
];

/// Families: remote SQL, large objects, files, logical decoding, replication, pages, WAL and backup control.
const DANGEROUS_STARTS: &[&str] = &[
    "binary_upgrade_",
    "brin_page",
    "bt_metap",
    "bt_multi_page",
    "bt_page",
    "crosstab",
    "dblink",
    "gin_page",
    "gist_page",
    "hash_page",
    "heap_page",
    "lo_",
    "pg_backup_",
    "pg_copy_",
    "pg_create_",
    "pg_drop_",
    "pg_file_",
    "pg_get_replication_slots",
    "pg_logical_",
    "pg_ls_",
    "pg_read_",
    "pg_replication_",
    "pg_start_backup",
    "pg_stat_get_replication_slot",
    "pg_stat_reset",
    "pg_stop_backup",
    "pg_sync_replication",
    "pg_wal_replay_",
    "pg_walinspect",
    "postgres_fdw_",
    "tuple_data_split",
];

const ROW_TAKING: &[&str] = &[
    "any_value",
    "array_agg",
    "array_append",
    "array_fill",
    "array_prepend",
    "concat",
    "concat_ws",
    "count",
    "first_value",
    "format",
    "hash_record",
    "hash_record_extended",
    "json_agg",
    "json_agg_strict",
    "json_build_array",
    "json_build_object",
    "json_populate_record",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_populate_record",
    "lag",
    "last_value",
    "lead",
    "max",
    "min",
    "mode",
    "nth_value",
    "num_nonnulls",
    "num_nulls",
    "pg_column_size",
    "quote_literal",
    "quote_nullable",
    "record_out",
    "record_send",
    "row_to_json",
    "text",
    "to_json",
    "to_jsonb",
    "varchar",
    "xmlagg",
];

const OPERATORS: &[&str] = &[
    "!!", "!~", "!~*", "!~~", "!~~*", "#", "##", "#-", "#>", "#>>", "%", "&", "&&", "&<", "&<|", "&>", "*",
    "*<", "*<=", "*<>", "*=", "*>", "*>=", "+", "-", "->", "->>", "-|-", "/", "<", "<->", "<<", "<<=", "<<|",
    "<=", "<>", "<@", "<^", "=", ">", ">=", ">>", ">>=", ">^", "?", "?#", "?&", "?-", "?-|", "?|", "?||",
    "@", "@-@", "@>", "@?", "@@", "@@@", "^", "^@", "|", "|&>", "|/", "|>>", "||", "||/", "~", "~*", "~<=~",
    "~<~", "~=", "~>=~", "~>~", "~~", "~~*",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_has_nothing_dangerous() {
        let names: Vec<_> =
            include_str!("functions.txt").lines().filter(|line| !line.starts_with('#')).collect();
        assert!(names.is_sorted());
        assert!(names.len() > 1500);
        for name in names {
            assert!(!is_dangerous(name), "{name}");
            assert!(!TOUCHES.contains(&name), "{name}");
        }
    }

    #[test]
    fn built_in_means_pg_catalog_or_no_schema() {
        assert_eq!(classify(&["lower"]), FunctionClass::Builtin);
        assert_eq!(classify(&["pg_catalog", "lower"]), FunctionClass::Builtin);
        assert_eq!(classify(&["public", "lower"]), FunctionClass::Foreign);
        assert_eq!(classify(&["information_schema", "_pg_expandarray"]), FunctionClass::Builtin);
        assert_eq!(classify(&["_pg_expandarray"]), FunctionClass::Foreign);
        assert_eq!(classify(&["lookup"]), FunctionClass::Foreign);
        assert_eq!(classify(&["LOWER"]), FunctionClass::Foreign);
        assert_eq!(classify(&["a", "b", "c"]), FunctionClass::Foreign);
        assert_eq!(classify(&[]), FunctionClass::Foreign);
    }

    #[test]
    fn dynamic_sql_and_files_are_dangerous_in_any_schema() {
        for name in ["query_to_xml", "dblink_exec", "lo_get", "pg_read_binary_file", "pg_ls_dir", "setval"] {
            assert_eq!(classify(&[name]), FunctionClass::Dangerous, "{name}");
            assert_eq!(classify(&["ext", name]), FunctionClass::Dangerous, "{name}");
        }
    }

    #[test]
    fn operators_of_other_schemas_are_foreign() {
        assert!(is_builtin_operator(&["="]));
        assert!(is_builtin_operator(&["pg_catalog", "~"]));
        assert!(!is_builtin_operator(&["public", "="]));
        assert!(!is_builtin_operator(&["<=>"]));
    }
}
