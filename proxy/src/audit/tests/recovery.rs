//! Opening: what a crash left behind is cut and recorded; what somebody changed is refused.

use super::*;

#[tokio::test]
async fn a_log_that_was_closed_verifies_and_goes_on_where_it_stood() {
    let folder = Folder::filled(5).await;
    let log = folder.open().unwrap();
    let receipt = log.appender().append(&loaded(5)).unwrap();
    assert_eq!(receipt.sequence(), 6);
    receipt.synced().await.unwrap();
    log.close().await;
    let report = verify(&folder.log()).unwrap();
    assert_eq!((report.records, report.signed, report.gaps, report.checkpoints), (6, 6, 0, 3));
}

#[tokio::test]
async fn an_empty_log_is_signed_and_verifies() {
    let folder = Folder::filled(0).await;
    let report = verify(&folder.log()).unwrap();
    assert_eq!((report.records, report.signed, report.checkpoints), (0, 0, 1));
}

#[tokio::test]
async fn a_second_writer_is_refused_until_the_first_is_closed() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    assert!(matches!(folder.open(), Err(AuditError::Locked { .. })));
    log.close().await;
    folder.open().unwrap().close().await;
}

#[tokio::test]
async fn a_torn_last_record_is_cut_and_the_cut_is_recorded() {
    for torn in [1, 20, 70] {
        let folder = Folder::filled(2).await;
        let mut bytes = fs::read(folder.segment()).unwrap();
        let line = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap()[..torn].to_vec();
        bytes.extend(line);
        fs::write(folder.segment(), bytes).unwrap();
        assert!(matches!(
            verify(&folder.log()),
            Err(VerifyError::Record { sequence: 3, problem: Problem::Torn, .. })
        ));
        folder.open().unwrap().close().await;
        let report = verify(&folder.log()).unwrap();
        assert_eq!((report.records, report.gaps), (3, 1));
        assert_eq!(folder.records()[2].kind, "gap");
    }
}

#[tokio::test]
async fn a_torn_last_checkpoint_is_cut_and_the_cut_is_recorded() {
    let folder = Folder::filled(2).await;
    let path = folder.log().join(CHECKPOINT_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let start = bytes[..40].to_vec();
    bytes.extend(start);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(verify(&folder.log()), Err(VerifyError::Checkpoint { flaw: Flaw::Torn, .. })));
    folder.open().unwrap().close().await;
    assert_eq!(verify(&folder.log()).unwrap().gaps, 1);
}

#[tokio::test]
async fn a_lost_or_readable_key_is_refused() {
    let folder = Folder::filled(1).await;
    let key = folder.log().join("audit.key");
    let mode = |bits| {
        let rights = std::os::unix::fs::PermissionsExt::from_mode(bits);
        fs::set_permissions(&key, rights).unwrap();
    };
    mode(0o640);
    assert!(matches!(folder.open(), Err(AuditError::Key { .. })));
    mode(0o600);
    folder.open().unwrap().close().await;
    fs::remove_file(&key).unwrap();
    assert!(matches!(folder.open(), Err(AuditError::Key { .. })));
    assert!(!key.exists());
}

#[tokio::test]
async fn opening_a_large_log_checks_from_before_the_last_checkpoint_to_the_end() {
    let folder = Folder::new();
    let log = folder.open_with(Options { segment_bytes_max: 500, ..Options::default() }).unwrap();
    for number in 0..12 {
        log.appender().append(&loaded(number)).unwrap();
    }
    log.close().await;
    let dir = folder.log();
    let key = verify::read_key(&dir).unwrap();
    let notes = verify::read_notes(&dir, &key, verify::Tail::Refuse).unwrap();
    let check = |enough| opening::check(&segments::list(&dir).unwrap(), &notes, key.name(), enough);
    assert_eq!(check(0).unwrap(), check(u64::MAX).unwrap());
    let list = segments::list(&dir).unwrap();
    let (before_last, first) = (&list[list.len() - 2], &list[0]);
    let good = fs::read_to_string(&first.path).unwrap();
    fs::write(&first.path, good.replace("bundle-0", "bundle-x")).unwrap();
    assert!(check(u64::MAX).is_err());
    assert!(check(0).is_ok(), "old segments are for `verify`");
    fs::write(&first.path, good).unwrap();
    // A changed hash at the end of the segment before gives a chain that the checkpoint refutes.
    let mut bytes = fs::read(&before_last.path).unwrap();
    let at = bytes.len() - 4;
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    fs::write(&before_last.path, bytes).unwrap();
    assert!(check(0).is_err());
}
