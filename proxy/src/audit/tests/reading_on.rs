//! A verifier that reads on: each record once, and what is changed while it waits is found.

use super::*;

/// Text that no other record has.
fn bundle(number: u64) -> String {
    format!("\"bundle-{number}\"")
}

/// Reads on and returns the lines it was told.
fn lines(verifier: &mut Verifier) -> Result<(Report, Vec<String>), VerifyError> {
    let mut lines = Vec::new();
    let report =
        verifier.read_on(&mut |passed| lines.push(String::from_utf8(passed.line.to_vec()).unwrap()))?;
    Ok((report, lines))
}

/// A verifier that has read the `count` records of a log, which is still open.
fn reading(folder: &Folder, count: u64) -> (Log, Verifier) {
    let log = folder.open().unwrap();
    for number in 0..count {
        log.appender().append(&loaded(number)).unwrap();
    }
    let mut verifier = Verifier::open(&folder.log(), &Trust::default()).unwrap();
    assert_eq!(lines(&mut verifier).unwrap().1.len() as u64, count);
    (log, verifier)
}

fn notes(folder: &Folder) -> PathBuf {
    folder.log().join(CHECKPOINT_FILE)
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn only_what_was_appended_is_read_again_and_the_report_is_that_of_one_reading() {
    let folder = Folder::new();
    let (log, mut verifier) = reading(&folder, 3);
    assert!(lines(&mut verifier).unwrap().1.is_empty());
    for number in 3..5 {
        log.appender().append(&loaded(number)).unwrap();
    }
    let (report, told) = lines(&mut verifier).unwrap();
    assert!(told.len() == 2 && told[0].contains(&bundle(3)) && told[1].contains(&bundle(4)), "{told:?}");
    assert_eq!(report, verify(&folder.log()).unwrap());
    // Closing signs records that were read before the checkpoint was there.
    log.close().await;
    let (report, told) = lines(&mut verifier).unwrap();
    assert!(told.is_empty(), "{told:?}");
    assert_eq!((report.records, report.signed), (5, 5));
    assert_eq!(report, verify(&folder.log()).unwrap());
}

#[tokio::test]
async fn a_log_that_grows_over_many_files_and_checkpoints_is_told_whole_and_once() {
    let folder = Folder::new();
    let (log, writing) = folder.growing(10_000);
    let mut verifier = Verifier::open(&folder.log(), &Trust::default()).unwrap();
    let (mut all, mut rounds) = (Vec::new(), 0);
    while !writing.is_finished() {
        all.extend(lines(&mut verifier).unwrap().1);
        rounds += 1;
    }
    writing.join().unwrap();
    log.close().await;
    let (report, told) = lines(&mut verifier).unwrap();
    all.extend(told);
    assert!(rounds > 1, "{rounds}");
    assert_eq!(report, verify(&folder.log()).unwrap());
    assert_eq!(all.len(), 10_000);
    assert!(all.iter().zip(0..).all(|(line, number)| line.contains(&bundle(number))));
}

#[tokio::test]
async fn a_record_that_is_changed_before_it_is_read_is_found() {
    let folder = Folder::new();
    let (log, mut verifier) = reading(&folder, 3);
    log.appender().append(&loaded(3)).unwrap().synced().await.unwrap();
    replace(&folder.segment(), &bundle(3), &bundle(7));
    let found = lines(&mut verifier);
    assert!(
        matches!(found, Err(VerifyError::Record { sequence: 4, problem: Problem::Hash, .. })),
        "{found:?}"
    );
    drop(log);
}

#[tokio::test]
async fn records_that_were_read_and_are_cut_off_are_found() {
    let folder = Folder::new();
    let (log, mut verifier) = reading(&folder, 3);
    let text = fs::read_to_string(folder.segment()).unwrap();
    let cut: String = text.split_inclusive('\n').take(2).collect();
    fs::write(folder.segment(), cut).unwrap();
    let found = lines(&mut verifier);
    assert!(matches!(found, Err(VerifyError::Record { sequence: 3, .. })), "{found:?}");
    drop(log);

    let folder = Folder::new();
    let (log, mut verifier) = reading(&folder, 3);
    fs::remove_file(folder.segment()).unwrap();
    let found = lines(&mut verifier);
    assert!(matches!(found, Err(VerifyError::Segment { expected: 1, found: 0 })), "{found:?}");
    drop(log);
}

/// No checkpoint signs the records yet: whoever has the files can make a chain of their own after the last signature.
#[tokio::test]
async fn another_chain_in_the_place_of_records_that_were_read_is_found() {
    let folder = Folder::new();
    let (log, mut verifier) = reading(&folder, 3);
    let genesis = chain::Chain::genesis(verify(&folder.log()).unwrap().key.split('+').next().unwrap());
    let (mut chain, mut forged) = (genesis, Vec::new());
    for number in [0, 1, 8, 9] {
        let mut line = Vec::new();
        let body = serde_json::to_vec(&loaded(number)).unwrap();
        chain = chain.frame(UnixMillis(1_000), &body, &mut line).unwrap();
        forged.extend(line);
    }
    fs::write(folder.segment(), forged).unwrap();
    assert_eq!(verify(&folder.log()).unwrap().records, 4, "the forged chain is one");
    let found = lines(&mut verifier);
    assert!(matches!(found, Err(VerifyError::Record { sequence: 3, .. })), "{found:?}");
    drop(log);
}

/// The checkpoint came after the reading: the records that it signs are gone through again.
#[tokio::test]
async fn a_checkpoint_that_signs_other_records_than_those_read_is_found() {
    let folder = Folder::new();
    let (log, mut verifier) = reading(&folder, 3);
    let read = fs::read(folder.segment()).unwrap();
    log.close().await;
    // The same key signs another chain of the same length, and the records that were read are put back with one more.
    let other = Folder::new();
    fs::create_dir(other.log()).unwrap();
    for name in ["audit.key", "audit.pub"] {
        fs::copy(folder.log().join(name), other.log().join(name)).unwrap();
    }
    let forged = other.open().unwrap();
    for number in [0, 8] {
        forged.appender().append(&loaded(number)).unwrap();
    }
    forged.close().await;
    assert_eq!(verify(&other.log()).unwrap().signed, 2);
    fs::copy(notes(&other), notes(&folder)).unwrap();
    fs::write(folder.segment(), read).unwrap();
    let found = lines(&mut verifier);
    assert!(matches!(found, Err(VerifyError::Checkpoint { flaw: Flaw::Records, .. })), "{found:?}");
}

#[tokio::test]
async fn checkpoints_that_were_read_and_are_removed_are_found() {
    let folder = Folder::filled(2).await;
    let mut verifier = Verifier::open(&folder.log(), &Trust::default()).unwrap();
    lines(&mut verifier).unwrap();
    let text = fs::read_to_string(notes(&folder)).unwrap();
    let first: String = text.split_inclusive('\n').take(9).collect();
    fs::write(notes(&folder), first).unwrap();
    let found = lines(&mut verifier);
    assert!(matches!(found, Err(VerifyError::Checkpoint { flaw: Flaw::Torn, .. })), "{found:?}");
}
