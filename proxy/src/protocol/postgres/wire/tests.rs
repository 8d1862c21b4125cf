//! Every reader accounts for every byte; every frame waits for its last one.

use bytes::BytesMut;

use super::backend::RowSink as _;
use super::encode::frame;
use super::*;
use crate::mask::{Cell, Keys, Plan, Shape};
use crate::model::MaskStrategy;

type Check = fn(&[u8]) -> Result<(), WireError>;

fn keys() -> Keys {
    Keys::new(&[1; 32], &[2; 32])
}

fn plan() -> Plan {
    Plan::new(vec![None, Some(Cell { strategy: MaskStrategy::Redact, shape: Shape::Text }), None])
}

fn rewrite(bytes: &[u8]) -> Result<(), WireError> {
    rewrite_row(bytes, &plan(), &keys(), &mut BytesMut::new()).map(drop)
}

fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        match value {
            None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend_from_slice(value);
            }
        }
    }
    frame(b'D', &body)
}

fn bind_body() -> Vec<u8> {
    [
        b"portal\0statement\0".as_slice(),
        &[0, 2, 0, 1, 0, 0],
        &[0, 2, 0, 0, 0, 3, b'a', b'b', b'c', 0xff, 0xff, 0xff, 0xff],
        &[0, 1, 0, 1],
    ]
    .concat()
}

/// A good frame of every kind with its reader. Each is exact: one byte more or less is another message.
fn exact() -> Vec<(&'static str, Vec<u8>, Check)> {
    let column =
        [b"id\0".as_slice(), &[0, 0, 0, 10, 0, 2, 0, 0, 0, 25, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat();
    vec![
        ("query", frame(b'Q', b"SELECT 1\0"), |bytes| parse_query(bytes).map(drop)),
        ("parse", frame(b'P', b"name\0SELECT $1\0\0\x02\0\0\0\x17\0\0\0\x19"), |bytes| {
            Parse::read(bytes).map(drop)
        }),
        ("bind", frame(b'B', &bind_body()), |bytes| Bind::read(bytes).map(drop)),
        ("describe", frame(b'D', b"Sname\0"), |bytes| Describe::read(bytes).map(drop)),
        ("close", frame(b'C', b"Pname\0"), |bytes| Close::read(bytes).map(drop)),
        ("execute", frame(b'E', b"portal\0\0\0\0\x05"), |bytes| Execute::read(bytes).map(drop)),
        ("row description", frame(b'T', &[&[0, 1], column.as_slice()].concat()), |bytes| {
            describe_columns(bytes).map(drop)
        }),
        ("rewritten row", row(&[Some(b"1"), Some(b"secret"), None]), rewrite),
        ("text row", row(&[Some(b"1"), None]), |bytes| read_text_row(bytes).map(drop)),
        ("error", frame(b'E', b"SERROR\0C42501\0Mno\0\0"), |bytes| ErrorFields::read(bytes).map(drop)),
        ("ready", ready(), |bytes| ready_status(bytes).map(drop)),
        ("setting", parameter_status("TimeZone", "UTC"), |bytes| read_setting(bytes).map(drop)),
    ]
}

#[test]
fn every_reader_takes_its_own_message() {
    for (name, bytes, check) in exact() {
        assert_eq!(check(&bytes), Ok(()), "{name}");
    }
}

#[test]
fn every_reader_refuses_a_message_cut_at_any_byte() {
    for (name, bytes, check) in exact() {
        for end in 0..bytes.len() {
            assert!(check(&bytes[..end]).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn every_reader_refuses_left_over_bytes() {
    for (name, bytes, check) in exact() {
        for extra in [&[0_u8] as &[u8], b"x", &[0xff; 16]] {
            assert!(check(&[bytes.as_slice(), extra].concat()).is_err(), "{name} with {extra:?}");
        }
    }
}

#[test]
fn no_reader_panics_when_any_byte_is_any_other() {
    for (_, bytes, check) in exact() {
        for at in 0..bytes.len() {
            for byte in 0..=u8::MAX {
                let mut changed = bytes.clone();
                changed[at] = byte;
                drop(check(&changed));
            }
        }
    }
}

#[test]
fn counts_and_lengths_that_lie_are_refused() {
    let lies: &[(&str, Vec<u8>, Check)] = &[
        ("types", frame(b'P', b"\0q\0\xff\xff\0\0\0\x17"), |bytes| Parse::read(bytes).map(drop)),
        ("formats", frame(b'B', b"\0\0\xff\xff\0\0\0\0"), |bytes| Bind::read(bytes).map(drop)),
        ("values", frame(b'B', b"\0\0\0\0\xff\xff\0\0"), |bytes| Bind::read(bytes).map(drop)),
        ("value", frame(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xffabc\0\0"), |bytes| Bind::read(bytes).map(drop)),
        ("below null", frame(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"), |bytes| {
            Bind::read(bytes).map(drop)
        }),
        ("result formats", frame(b'B', b"\0\0\0\0\0\0\0\x02\0\0"), |bytes| Bind::read(bytes).map(drop)),
        ("columns", frame(b'T', b"\xff\xff"), |bytes| describe_columns(bytes).map(drop)),
        ("cells", frame(b'D', b"\xff\xff"), rewrite),
        ("cell", frame(b'D', b"\0\x01\0\0\0\x09abc"), rewrite),
        ("cell below null", frame(b'D', b"\0\x01\x80\0\0\0"), rewrite),
        ("text cell below null", frame(b'D', b"\0\x01\xff\xff\xff\xfe"), |bytes| {
            read_text_row(bytes).map(drop)
        }),
    ];
    for (name, bytes, check) in lies {
        assert!(matches!(check(bytes), Err(WireError::Malformed { .. })), "{name}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_wherever_it_is_read_as_text() {
    let bad: &[(&str, Vec<u8>, Check)] = &[
        ("query", frame(b'Q', b"SELECT '\xe4'\0"), |bytes| parse_query(bytes).map(drop)),
        ("statement", frame(b'P', b"\0\xff\0\0\0"), |bytes| Parse::read(bytes).map(drop)),
        ("statement name", frame(b'P', b"\xff\0q\0\0\0"), |bytes| Parse::read(bytes).map(drop)),
        ("portal", frame(b'B', b"\xff\0\0\0\0\0\0\0\0"), |bytes| Bind::read(bytes).map(drop)),
        ("bound statement", frame(b'B', b"\0\xff\0\0\0\0\0\0\0"), |bytes| Bind::read(bytes).map(drop)),
        ("described name", frame(b'D', b"S\xc0\x80\0"), |bytes| Describe::read(bytes).map(drop)),
        ("executed name", frame(b'E', b"\xed\xa0\x80\0\0\0\0\0"), |bytes| Execute::read(bytes).map(drop)),
        ("setting", frame(b'S', b"a\0\xff\0"), |bytes| read_setting(bytes).map(drop)),
        ("text row", row(&[Some(b"\xff")]), |bytes| read_text_row(bytes).map(drop)),
    ];
    for (name, bytes, check) in bad {
        assert!(matches!(check(bytes), Err(WireError::Malformed { .. })), "{name}");
    }
}

#[test]
fn bound_values_may_be_any_bytes() {
    let bytes = frame(b'B', b"\0\0\0\x01\0\x01\0\x01\0\0\0\x02\xff\0\0\0");
    let bind = Bind::read(&bytes).unwrap();
    assert_eq!(bind.values, [Some([0xff, 0].as_slice())]);
    assert_eq!((bind.format(0), bind.format(7)), (1, 1), "one format stands for all");
}

#[test]
fn formats_are_none_for_all_or_one_each() {
    let bind = |formats| Bind { portal: "", statement: "", formats, values: Vec::new() };
    assert_eq!(bind(vec![]).format(3), 0);
    assert_eq!(bind(vec![1]).format(3), 1);
    assert_eq!((bind(vec![0, 1]).format(1), bind(vec![1, 1]).format(2)), (1, 0));
}

#[test]
fn a_zero_byte_inside_a_query_does_not_hide_what_follows() {
    assert!(parse_query(&frame(b'Q', b"SELECT 1\0; DROP TABLE t\0")).is_err());
    assert!(Parse::read(&frame(b'P', b"\0SELECT 1\0; DROP TABLE t\0\0\0")).is_err());
}

#[test]
fn a_description_names_a_statement_or_a_portal_and_nothing_else() {
    for what in 0..=u8::MAX {
        let bytes = frame(b'D', &[what, b'n', 0]);
        match what {
            b'S' => assert_eq!(Describe::read(&bytes), Ok(Describe::Statement("n"))),
            b'P' => assert_eq!(Describe::read(&bytes), Ok(Describe::Portal("n"))),
            _ => assert!(Describe::read(&bytes).is_err(), "{what}"),
        }
    }
}

#[test]
fn a_transaction_status_is_one_of_three() {
    for status in 0..=u8::MAX {
        let read = ready_status(&frame(b'Z', &[status]));
        assert_eq!(read.is_ok(), matches!(status, b'I' | b'T' | b'E'), "{status}");
    }
}

#[test]
fn cancel_keys_have_4_to_256_bytes() {
    for length in [0, 3, 4, 32, 256, 257] {
        let secret = vec![7_u8; length];
        let read = read_backend_key(&backend_key(9, &secret));
        match length {
            4..=256 => assert_eq!(read, Ok(CancelKey { pid: 9, secret })),
            _ => assert!(read.is_err(), "{length}"),
        }
    }
}

#[test]
fn a_negotiated_version_is_read_whole_or_as_its_minor_part() {
    assert_eq!(read_negotiated_minor(&negotiate(2, &["_pq_.x"])), Ok(2));
    assert_eq!(read_negotiated_minor(&frame(b'v', &[0, 0, 0, 2, 0, 0, 0, 0])), Ok(2));
    assert!(read_negotiated_minor(&frame(b'v', &[0, 3])).is_err());
}

#[test]
fn a_frame_is_not_there_before_its_header_and_its_total_is_exact() {
    for (name, bytes, _) in exact() {
        for end in 0..bytes.len() {
            let header = next_frame(&bytes[..end], &|_| Some(1 << 20)).unwrap();
            assert_eq!(header.is_some(), end >= 5, "{name} at {end}");
            assert!(
                header.is_none_or(|header| header.total == bytes.len() && header.total > end),
                "{name} at {end}"
            );
        }
        let more = [bytes.as_slice(), b"Q\0\0"].concat();
        let header = next_frame(&more, &|_| Some(1 << 20)).unwrap();
        assert_eq!(header, Some(FrameHeader { kind: bytes[0], total: bytes.len() }), "{name}");
    }
}

#[test]
fn an_unknown_type_is_refused_at_its_first_byte() {
    for byte in 0..=u8::MAX {
        let first = next_frame(&[byte], &Kind::limits());
        let whole = next_frame(&[byte, 0, 0, 0, 4], &Kind::limits());
        if Kind::of(byte).is_ok() {
            assert_eq!(first, Ok(None), "{byte}");
            assert_eq!(whole, Ok(Some(FrameHeader { kind: byte, total: 5 })), "{byte}");
        } else {
            assert_eq!(first, Err(WireError::UnknownType(byte)));
            assert_eq!(whole, Err(WireError::UnknownType(byte)));
        }
    }
}

#[test]
fn a_length_below_four_or_over_its_limit_is_refused_at_the_header() {
    for (kind, limit) in
        [(b'Q', 4_u32 << 20), (b'B', 64 << 20), (b'd', 16 << 20), (b'E', 64 << 10), (b'S', 4), (b'X', 4)]
    {
        let at =
            |length: u32| next_frame(&[&[kind], length.to_be_bytes().as_slice()].concat(), &Kind::limits());
        for length in 0..4 {
            assert_eq!(at(length), Err(WireError::Length { kind, length }));
        }
        assert_eq!(at(limit).unwrap().unwrap().total, usize::try_from(limit).unwrap() + 1);
        for length in [limit + 1, 1 << 31, u32::MAX] {
            assert_eq!(at(length), Err(WireError::TooLong { kind, length, limit }));
        }
    }
}

#[test]
fn a_rewritten_row_keeps_clear_cells_and_nulls_and_states_its_length() {
    let mut out = BytesMut::from(b"before".as_slice());
    let masked = rewrite_row(&row(&[Some(b"1"), Some(b"secret"), None]), &plan(), &keys(), &mut out);
    assert_eq!(masked, Ok(1));
    assert_eq!(out, [b"before".as_slice(), &row(&[Some(b"1"), Some(b"[masked]"), None])].concat());
}

#[test]
fn a_null_stays_null_and_is_not_counted_as_masked() {
    let mut out = BytesMut::new();
    assert_eq!(rewrite_row(&row(&[None, None, None]), &plan(), &keys(), &mut out), Ok(0));
    assert_eq!(out, row(&[None, None, None]));
}

#[test]
fn columns_that_the_plan_does_not_have_come_out_as_null() {
    let mut out = BytesMut::new();
    assert_eq!(rewrite_row(&row(&[Some(b"1"), Some(b"x")]), &Plan::default(), &keys(), &mut out), Ok(2));
    assert_eq!(out, row(&[None, None]));
}

#[test]
fn a_row_that_cannot_be_rewritten_leaves_the_output_as_it_was() {
    let good = row(&[Some(b"1"), Some(b"secret"), Some(b"end")]);
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    bad.push([good.as_slice(), b"x"].concat());
    for bytes in bad {
        let mut out = BytesMut::from(b"before".as_slice());
        assert!(rewrite_row(&bytes, &plan(), &keys(), &mut out).is_err(), "{bytes:?}");
        assert_eq!(out, b"before".as_slice());
        assert_eq!(out.length(), 6);
    }
}

#[test]
fn errors_come_out_as_they_went_in() {
    let bytes = frame(b'E', b"SERROR\0VERROR\0C22P02\0M\xff odd\0D\0Ff.c\0L1\0\0");
    assert_eq!(ErrorFields::read(&bytes).unwrap().encode(FieldNotice::Error), bytes);
    let none = frame(b'N', b"\0");
    assert_eq!(ErrorFields::read(&none).unwrap().encode(FieldNotice::Notice), none);
    assert_eq!(ErrorFields::read(&none).unwrap().sqlstate(), "XX000");
}

#[test]
fn scrubbing_takes_every_field_that_can_quote_a_value() {
    let bytes =
        frame(b'E', b"SERROR\0C23505\0Mduplicate\0DKey (ssn)=(1)\0Hh\0Ww\0qq\0p1\0tcustomers\0nkey\0\0");
    let fields = ErrorFields::read(&bytes).unwrap().without_quotes();
    assert_eq!(
        fields.encode(FieldNotice::Error),
        frame(b'E', b"SERROR\0C23505\0Mduplicate\0tcustomers\0nkey\0\0")
    );
    let fields = ErrorFields::read(&bytes).unwrap().without_quotes().with_message("withheld");
    assert_eq!(
        fields.encode(FieldNotice::Error),
        frame(b'E', b"SERROR\0C23505\0Mwithheld\0tcustomers\0nkey\0\0")
    );
    assert_eq!(fields.sqlstate(), "23505");
    assert_eq!(fields.for_log(), "ERROR 23505 withheld");
}

#[test]
fn our_notices_are_read_back_as_written_without_zero_bytes() {
    for severity in [Severity::Error, Severity::Fatal, Severity::Notice] {
        let message = "held\0 for ana".to_owned();
        let bytes = notice(&Notice { severity, sqlstate: "01000", message, hint: Some("wait\0".to_owned()) });
        let kind = if severity == Severity::Notice { FieldNotice::Notice } else { FieldNotice::Error };
        let fields = ErrorFields::read(&bytes).unwrap();
        assert_eq!(fields.encode(kind), bytes);
        assert_eq!(fields.sqlstate(), "01000");
        assert!(fields.for_log().ends_with("01000 held for ana"));
    }
}

#[test]
fn rows_of_a_tag_are_its_last_number_or_none() {
    for (tag, rows) in [("SELECT 12", 12), ("INSERT 0 3", 3), ("BEGIN", 0), ("", 0), ("SELECT x", 0)] {
        assert_eq!(command_rows(&frame(b'C', format!("{tag}\0").as_bytes())), rows, "{tag}");
    }
    assert_eq!(command_rows(&frame(b'C', b"SELECT 12")), 0);
    assert_eq!(command_rows(b""), 0);
}

fn opening(code: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(rest.len() + 8).unwrap();
    [&length.to_be_bytes(), &code.to_be_bytes(), rest].concat()
}

#[test]
fn openings_are_told_apart() {
    assert_eq!(read_opening(&[0x16, 3, 1]), Ok(Opening::DirectTls));
    assert_eq!(read_opening(&opening(80_877_103, b"")), Ok(Opening::Ssl { used: 8 }));
    assert_eq!(read_opening(&opening(80_877_104, b"")), Ok(Opening::Gssenc { used: 8 }));
    let key = CancelKey { pid: 5, secret: vec![1, 2, 3, 4] };
    assert_eq!(read_opening(&opening(80_877_102, &[0, 0, 0, 5, 1, 2, 3, 4])), Ok(Opening::Cancel(key)));
    let startup = opening(0x0003_0002, b"user\0me\0database\0\0\0");
    match read_opening(&startup) {
        Ok(Opening::Startup(read, used)) => {
            assert_eq!((read.minor, used), (2, startup.len()));
            assert_eq!((read.parameter("user"), read.parameter("database")), (Some("me"), Some("")));
            assert_eq!(read.parameter("role"), None);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_after_an_ssl_request_are_not_its_own() {
    let early = [opening(80_877_103, b""), b"\x16\x03\x01".to_vec()].concat();
    assert_eq!(read_opening(&early), Ok(Opening::Ssl { used: 8 }));
}

#[test]
fn an_opening_is_awaited_to_its_last_byte() {
    for bytes in [
        opening(80_877_103, b""),
        opening(80_877_102, &[0, 0, 0, 5, 1, 2, 3, 4]),
        opening(0x0003_0000, b"user\0me\0\0"),
    ] {
        for end in 0..bytes.len() {
            assert_eq!(read_opening(&bytes[..end]), Ok(Opening::More), "{end}");
        }
    }
}

#[test]
fn openings_of_no_known_form_are_refused() {
    let long = vec![b'x'; 256 + 1 + 4];
    let bad: &[(&str, Vec<u8>)] = &[
        ("too short", vec![0, 0, 0, 7]),
        ("too long", 10_001_u32.to_be_bytes().to_vec()),
        ("negative", vec![0xff, 0xff, 0xff, 0xff]),
        ("version 2", opening(0x0002_0000, b"\0")),
        ("version 4", opening(0x0004_0000, b"\0")),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("SSLRequest with a body", opening(80_877_103, b"x")),
        ("GSSENCRequest with a body", opening(80_877_104, b"x")),
        ("cancel without key", opening(80_877_102, &[0, 0, 0, 1])),
        ("cancel with a short key", opening(80_877_102, &[0, 0, 0, 1, 1, 2, 3])),
        ("cancel with a long key", opening(80_877_102, &long)),
        ("parameter without value", opening(0x0003_0000, b"user\0")),
        ("no end", opening(0x0003_0000, b"user\0me\0")),
        ("bytes after the end", opening(0x0003_0000, b"user\0me\0\0x\0y\0\0")),
        ("not UTF-8", opening(0x0003_0000, b"user\0\xff\0\0")),
    ];
    for (name, bytes) in bad {
        assert!(read_opening(bytes).is_err(), "{name}");
    }
}

#[test]
fn a_cancel_key_does_not_show_its_secret() {
    let shown = format!("{:?}", CancelKey { pid: 5, secret: b"hush".to_vec() });
    assert!(!shown.contains("104") && !shown.contains("hush"), "{shown}");
}
