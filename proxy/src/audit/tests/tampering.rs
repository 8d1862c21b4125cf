//! What somebody changed, moved or removed is found, whatever it was.

use super::*;

#[test]
fn a_folder_without_a_log_does_not_verify() {
    let folder = Folder::new();
    assert!(matches!(verify(&folder.log()), Err(VerifyError::File { .. })));
}

/// The promise of the log: every byte of it counts.
#[tokio::test]
async fn every_flipped_byte_is_found() {
    let folder = Folder::filled(3).await;
    {
        let log = folder.open().unwrap();
        let agent = AgentName("reporter".into());
        log.appender().append(&decided(&agent, "drop table \"x\"\n", &Operation::unknown())).unwrap();
        log.close().await;
    }
    verify(&folder.log()).unwrap();
    for path in [folder.segment(), folder.log().join(CHECKPOINT_FILE), folder.log().join("audit.pub")] {
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            for bit in [0x01, 0x20] {
                let mut bad = good.clone();
                bad[at] ^= bit;
                fs::write(&path, &bad).unwrap();
                assert!(verify(&folder.log()).is_err(), "{} byte {at} bit {bit:#x}", path.display());
            }
        }
        fs::write(&path, &good).unwrap();
    }
    verify(&folder.log()).unwrap();
}

/// Tail records that no checkpoint covers yet rest on the chain alone: flips are found, clean truncation is not.
#[tokio::test]
async fn flips_behind_the_last_checkpoint_are_found_and_a_clean_cut_there_is_not() {
    let folder = Folder::filled(2).await;
    let checkpoints = fs::read(folder.log().join(CHECKPOINT_FILE)).unwrap();
    let covered = fs::read(folder.segment()).unwrap().len();
    let log = folder.open().unwrap();
    log.appender().append(&loaded(9)).unwrap();
    log.close().await;
    fs::write(folder.log().join(CHECKPOINT_FILE), checkpoints).unwrap();
    let good = fs::read(folder.segment()).unwrap();
    for at in covered..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(folder.segment(), &bad).unwrap();
        assert!(verify(&folder.log()).is_err(), "byte {at}");
    }
    fs::write(folder.segment(), &good[..covered]).unwrap();
    assert_eq!(verify(&folder.log()).unwrap().records, 2);
}

#[tokio::test]
async fn truncation_to_before_a_checkpoint_is_found_and_not_appended_to() {
    let folder = Folder::filled(4).await;
    let text = fs::read_to_string(folder.segment()).unwrap();
    let cut = text.split_inclusive('\n').take(3).collect::<String>();
    fs::write(folder.segment(), cut).unwrap();
    assert!(matches!(verify(&folder.log()), Err(VerifyError::Truncated { records: 3, signed: 4 })));
    let Err(AuditError::Broken(why)) = folder.open() else { panic!("opened a truncated log") };
    assert!(matches!(*why, VerifyError::Truncated { records: 3, signed: 4 }));
}

#[tokio::test]
async fn records_and_checkpoints_cut_together_are_found_with_a_checkpoint_kept_elsewhere() {
    let folder = Folder::filled(2).await;
    let (records, notes) = (folder.segment(), folder.log().join(CHECKPOINT_FILE));
    let old = (fs::read(&records).unwrap(), fs::read(&notes).unwrap());
    let log = folder.open().unwrap();
    log.appender().append(&loaded(9)).unwrap();
    log.close().await;
    let kept = fs::read_to_string(&notes).unwrap();
    let last = kept.get(old.1.len()..).unwrap().to_owned();
    fs::write(&records, old.0).unwrap();
    fs::write(&notes, old.1).unwrap();
    assert!(verify(&folder.log()).is_ok());
    for checkpoints in [last, kept] {
        let trust = Trust { checkpoints: Some(checkpoints), ..Trust::default() };
        let found = verify_with(&folder.log(), &trust, &mut |_| {});
        assert!(matches!(found, Err(VerifyError::Truncated { records: 2, signed: 3 })), "{found:?}");
    }
    let other = Folder::filled(1).await;
    let trust = Trust { key: Some(verify(&other.log()).unwrap().key), ..Trust::default() };
    assert!(matches!(verify_with(&folder.log(), &trust, &mut |_| {}), Err(VerifyError::Key { .. })));
}

#[tokio::test]
async fn a_changed_record_stops_the_daemon_from_appending_and_is_named() {
    let folder = Folder::filled(4).await;
    let text = fs::read_to_string(folder.segment()).unwrap().replace("bundle-2", "bundle-7");
    fs::write(folder.segment(), text).unwrap();
    let Err(AuditError::Broken(why)) = folder.open() else { panic!("opened a changed log") };
    assert!(matches!(*why, VerifyError::Record { sequence: 3, problem: Problem::Hash, .. }), "{why}");
}

#[tokio::test]
async fn swapped_and_repeated_records_are_found() {
    let folder = Folder::filled(4).await;
    let text = fs::read_to_string(folder.segment()).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for order in [vec![0, 2, 1, 3], vec![0, 1, 1, 2, 3], vec![0, 2, 3], vec![1, 2, 3]] {
        let changed = order.iter().map(|index| lines[*index]).collect::<String>();
        fs::write(folder.segment(), changed).unwrap();
        assert!(matches!(verify(&folder.log()), Err(VerifyError::Record { .. })), "{order:?}");
    }
}

#[tokio::test]
async fn a_checkpoint_taken_out_of_the_middle_is_found() {
    let folder = Folder::filled(2).await;
    folder.open().unwrap().close().await;
    let log = folder.open().unwrap();
    log.appender().append(&loaded(9)).unwrap();
    log.close().await;
    let path = folder.log().join(CHECKPOINT_FILE);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let without = [&lines[..9], &lines[18..]].concat().concat();
    fs::write(&path, without).unwrap();
    assert!(matches!(
        verify(&folder.log()),
        Err(VerifyError::Checkpoint { number: 2, flaw: Flaw::Order, .. })
    ));
}

#[tokio::test]
async fn a_removed_segment_is_found_wherever_it_was() {
    let folder = Folder::new();
    let options = || Options { segment_bytes_max: 500, ..Options::default() };
    let log = folder.open_with(options()).unwrap();
    for number in 0..12 {
        log.appender().append(&loaded(number)).unwrap();
    }
    log.close().await;
    let report = verify(&folder.log()).unwrap();
    assert_eq!(report.records, 12);
    assert!(report.segments >= 4, "{report:?}");
    for segment in segments::list(&folder.log()).unwrap() {
        let kept = fs::read(&segment.path).unwrap();
        fs::remove_file(&segment.path).unwrap();
        assert!(verify(&folder.log()).is_err(), "{}", segment.name());
        fs::write(&segment.path, kept).unwrap();
    }
    let log = folder.open_with(options()).unwrap();
    assert_eq!(log.appender().append(&loaded(0)).unwrap().sequence(), 13);
    log.close().await;
    verify(&folder.log()).unwrap();
}

#[tokio::test]
async fn checkpoints_removed_whole_are_found_and_not_replaced() {
    let folder = Folder::filled(1).await;
    fs::remove_file(folder.log().join(CHECKPOINT_FILE)).unwrap();
    assert!(matches!(verify(&folder.log()), Err(VerifyError::Unsigned { .. })));
    assert!(matches!(folder.open(), Err(AuditError::Broken(_))));
}
