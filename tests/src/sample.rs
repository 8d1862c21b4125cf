//! The sample database of tests and demo: a small shop with personal data.
//!
//! 200 customers with e-mail, national id and card number, 1,000 orders, and a view over both. Every value is
//! computed from its row's number, so two runs agree and tests can name exact values.

use std::path::PathBuf;

/// Name of the database.
pub const DATABASE: &str = "shop";

/// The account that the daemon holds the password of.
pub const USER: &str = "svc_reporter";

/// Its password; agents never see it.
pub const PASSWORD: &str = "only-the-daemon-knows-this";

/// Customers in the sample.
pub const CUSTOMERS: u32 = 200;

/// Orders in the sample.
pub const ORDERS: u32 = 1000;

/// Tables, rows, views and rights.
pub const SQL: &str = include_str!("sample.sql");

/// The classes of the sample's sensitive columns, for the given resource, as a `columns.toml`.
#[must_use]
pub fn columns_toml(resource: &str) -> String {
    let classes = [
        ("email", "pii.email", "keep-last:4"),
        ("national_id", "pii.national-id", "redact"),
        ("card", "pci.card", "keep-last:4"),
    ];
    let entry = |(column, class, mask): &(&str, &str, &str)| {
        format!(
            "[[column]]\nresource = \"{resource}\"\ncolumn = \"public.customers.{column}\"\nclass = \"{class}\"\n\n\
             [class.\"{class}\"]\nmask = \"{mask}\"\n"
        )
    };
    classes.iter().map(entry).collect::<Vec<_>>().join("\n")
}

/// The folder of the policies that ship with the project: `CHAPERONE_POLICIES`, else the clone's own.
#[must_use]
pub fn shipped_policies() -> PathBuf {
    let clone = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies"));
    std::env::var_os("CHAPERONE_POLICIES").map_or_else(clone, PathBuf::from)
}
