//! Which settings a statement may change and stay analysable.
//!
//! An allow-list: settings that change who runs, how text is read, what is logged or which code is loaded are not on it.
//! `client_encoding` only to UTF-8, `client_min_messages` only to `notice` or less talk, `escape_string_warning` only off:
//! else the text we read is not the text the server reads, or query text and values come back as messages.

/// Whether a setting may be changed to these values. Names are compared without case, as the server does.
pub(super) fn may_set(name: &str, values: &[Option<&str>]) -> bool {
    let name = name.to_ascii_lowercase();
    let only = |allowed: &[&str]| match values {
        [Some(value)] => allowed.iter().any(|word| word.eq_ignore_ascii_case(value)),
        _ => false,
    };
    match name.as_str() {
        "client_encoding" => only(&["utf8", "utf-8", "unicode"]),
        "client_min_messages" => only(&["notice", "warning", "error"]),
        "standard_conforming_strings" => only(&["on", "true", "1", "yes"]),
        _ => may_reset(&name) && !RESTRICTED.contains(&name.as_str()),
    }
}

/// Whether a setting may go back to its default (which the proxy set when the session began).
pub(super) fn may_reset(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ALLOWED.binary_search(&name.as_str()).is_ok()
        || RESTRICTED.contains(&name.as_str())
        || (name.starts_with("enable_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

/// Allowed for some values only.
const RESTRICTED: &[&str] = &["client_encoding", "client_min_messages", "standard_conforming_strings"];

/// Sorted, lower case.
const ALLOWED: &[&str] = &[
    "application_name",
    "bytea_output",
    "check_function_bodies",
    "commit_delay",
    "commit_siblings",
    "constraint_exclusion",
    "cpu_index_tuple_cost",
    "cpu_operator_cost",
    "cpu_tuple_cost",
    "cursor_tuple_fraction",
    "datestyle",
    "deadlock_timeout",
    "default_statistics_target",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "effective_cache_size",
    "effective_io_concurrency",
    "escape_string_warning",
    "extra_float_digits",
    "from_collapse_limit",
    "geqo",
    "geqo_effort",
    "geqo_threshold",
    "gin_fuzzy_search_limit",
    "hash_mem_multiplier",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "jit_above_cost",
    "jit_inline_above_cost",
    "jit_optimize_above_cost",
    "join_collapse_limit",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "logical_decoding_work_mem",
    "maintenance_work_mem",
    "max_parallel_maintenance_workers",
    "max_parallel_workers",
    "max_parallel_workers_per_gather",
    "min_parallel_index_scan_size",
    "min_parallel_table_scan_size",
    "parallel_leader_participation",
    "parallel_setup_cost",
    "parallel_tuple_cost",
    "plan_cache_mode",
    "quote_all_identifiers",
    "random_page_cost",
    "recursive_worktable_factor",
    "restrict_nonsystem_relation_kind",
    "row_security",
    "search_path",
    "seed",
    "seq_page_cost",
    "session characteristics",
    "statement_timeout",
    "synchronize_seqscans",
    "synchronous_commit",
    "tcp_keepalives_count",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_user_timeout",
    "temp_buffers",
    "timezone",
    "timezone_abbreviations",
    "transaction",
    "transaction snapshot",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_timeout",
    "vacuum_cost_delay",
    "work_mem",
    "xmlbinary",
    "xmloption",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_for_binary_search() {
        assert!(ALLOWED.is_sorted());
    }

    #[test]
    fn settings_that_change_reader_or_role_are_refused() {
        for name in [
            "role",
            "session_authorization",
            "backslash_quote",
            "debug_print_plan",
            "auto_explain.log_analyze",
            "local_preload_libraries",
            "default_table_access_method",
            "session_preload_libraries",
            "log_statement",
            "escape_string_warnings",
            "lo_compat_privileges",
            "allow_system_table_mods",
            "session_replication_role",
            "array_nulls",
            "enable_x.y",
            "my.setting",
            "dynamic_library_path",
            "transform_null_equals",
            "default_with_oids",
            "temp_tablespaces",
            "password_encryption",
        ] {
            assert!(!may_set(name, &[Some("on")]), "{name}");
            assert!(!may_reset(name), "{name}");
        }
    }

    #[test]
    fn encoding_messages_and_strings_only_to_safe_values() {
        assert!(may_set("Client_Encoding", &[Some("utf-8")]));
        assert!(!may_set("client_encoding", &[Some("SJIS")]));
        assert!(!may_set("client_encoding", &[None]));
        assert!(may_set("client_min_messages", &[Some("WARNING")]));
        assert!(!may_set("client_min_messages", &[Some("debug1")]));
        assert!(!may_set("client_min_messages", &[Some("log")]));
        assert!(may_set("standard_conforming_strings", &[Some("on")]));
        assert!(!may_set("standard_conforming_strings", &[Some("off")]));
        assert!(may_set("search_path", &[Some("")]));
        assert!(may_set("enable_seqscan", &[Some("off")]));
    }
}
