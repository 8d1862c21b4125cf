//! Runs every reader over one message. For fuzzing and tests.
//!
//! For fuzzing and tests only; nothing here is in the product.

use bytes::BytesMut;

use super::{
    Bind, Describe, ErrorFields, Execute, FieldNotice, Kind, Parse, command_rows, describe_columns,
    next_frame, parse_query, read_backend_key, read_negotiated_minor, read_opening, read_setting,
    read_text_row, ready_status, rewrite_row,
};
use crate::mask::{Keys, Plan};

/// Reads `bytes` as every message there is.
///
/// # Panics
/// When a reader and its writer disagree, or a row that cannot be rewritten left something behind.
pub fn read_everything(bytes: &[u8]) {
    drop((read_opening(bytes), next_frame(bytes, &Kind::limits())));
    drop((
        parse_query(bytes),
        Parse::read(bytes),
        Bind::read(bytes),
        Describe::read(bytes),
        Execute::read(bytes),
    ));
    drop((describe_columns(bytes), ready_status(bytes), read_negotiated_minor(bytes), read_text_row(bytes)));
    let _rows: u64 = command_rows(bytes);
    // The readers are given whole frames; what stands in the length field is the framer's business.
    let body = |frame: &[u8]| frame.get(5..).map(<[u8]>::to_vec);
    if let Ok(fields) = ErrorFields::read(bytes) {
        assert_eq!(body(&fields.encode(FieldNotice::Error)), body(bytes), "an error is not what was read");
    }
    if let Ok((name, value)) = read_setting(bytes) {
        assert_eq!(
            body(&super::parameter_status(name, value)),
            body(bytes),
            "a setting is not what was read"
        );
    }
    if let Ok(key) = read_backend_key(bytes) {
        assert_eq!(
            body(&super::backend_key(key.pid, &key.secret)),
            body(bytes),
            "a key is not what was read"
        );
    }
    let keys = Keys::new(&[1; 32], &[2; 32]);
    let clear = Plan::new(vec![None; usize::from(u16::MAX)]);
    let mut out = BytesMut::new();
    match rewrite_row(bytes, &clear, &keys, &mut out) {
        Ok(masked) => {
            assert_eq!(masked, 0, "a clear row was masked");
            assert_eq!(body(&out), body(bytes), "a clear row was changed");
        }
        Err(_) => assert!(out.is_empty(), "a row that cannot be rewritten left something behind"),
    }
}
