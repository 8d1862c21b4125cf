//! The analysis through real worker processes: answers, memory, confinement, crashes and nonsense.

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use chaperone::model::Effect;
    use chaperone::shutdown::{Phase, Shutdown};
    use chaperone::sql::{Analyzer, Settings, SqlError};

    fn program() -> PathBuf {
        PathBuf::from(env!("CARGO_BIN_EXE_chaperone"))
    }

    fn analyzer(program: PathBuf, workers: usize) -> Result<Analyzer, SqlError> {
        Analyzer::start(&Settings { program, workers }, &Shutdown::default())
    }

    /// A program that stands in for the worker.
    fn stand_in(name: &str, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("chaperone-{name}-{}", std::process::id()));
        // By another process: a child of a neighbouring test would keep it open for writing for a moment, and it could not be run.
        let mut write = Command::new("sh");
        write.args(["-c", "printf %s \"$1\" > \"$0\""]).arg(&path).arg(format!("#!/bin/sh\n{script}\n"));
        assert!(write.status().unwrap().success());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    fn worker() -> Child {
        let mut child = Command::new(program())
            .arg("sql-worker")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The ready frame comes only after limits and filter hold.
        let mut length = [0; 4];
        child.stdout.as_mut().unwrap().read_exact(&mut length).unwrap();
        let mut ready = vec![0; usize::try_from(u32::from_le_bytes(length)).unwrap()];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        child
    }

    fn status_line(child: &Child, key: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    }

    #[tokio::test]
    async fn a_worker_answers_and_the_answer_is_remembered() {
        let analyzer = analyzer(program(), 2).unwrap();
        let sql = "SELECT a FROM t WHERE b = 1";
        assert!(analyzer.cached(sql).is_none());
        let analysis = analyzer.analyze(sql).await;
        assert!(!analysis.is_unknown(), "{:?}", analysis.trouble);
        assert_eq!(analysis.operation.relations.len(), 1);
        assert_eq!(analyzer.cached(sql).as_deref(), Some(&*analysis));
        // Another value has the same shape, another table has not.
        assert_eq!(analyzer.cached("SELECT a FROM t WHERE b = 2 -- x").as_deref(), Some(&*analysis));
        assert!(analyzer.cached("SELECT a FROM u WHERE b = 2").is_none());
    }

    #[tokio::test]
    async fn what_a_literal_decides_is_remembered_for_the_exact_text_only() {
        let analyzer = analyzer(program(), 1).unwrap();
        analyzer.analyze("SELECT set_config('search_path', 'a', false)").await;
        assert!(analyzer.cached("SELECT set_config('search_path', 'a', false)").is_some());
        assert!(analyzer.cached("SELECT set_config('role', 'a', false)").is_none());
        analyzer.analyze("SELECT a FROM t LIMIT 1").await;
        assert!(analyzer.cached("SELECT a FROM t LIMIT 2").is_none());
        assert!(analyzer.analyze("SELECT set_config('role', 'a', false)").await.is_unknown());
    }

    #[tokio::test]
    async fn hostile_texts_cost_at_most_one_statement() {
        let analyzer = analyzer(program(), 1).unwrap();
        for sql in [
            format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
            format!("SELECT 1{}", "+1".repeat(500_000)),
            format!("SELECT {}1", "- ".repeat(500_000)),
            format!("SELECT {}1", "NOT ".repeat(250_000)),
            format!("SELECT a{} FROM t", "[1]".repeat(300_000)),
            format!("SELECT {}", "CASE WHEN ".repeat(100_000)),
            format!("SELECT '{}'", "x".repeat(2 << 20)),
            "SELECT 1\0; DROP TABLE t".to_owned(),
        ] {
            let start: String = sql.chars().take(40).collect();
            let analysis = analyzer.analyze(&sql).await;
            assert!(analysis.operation.effects.contains(&Effect::Unknown), "{start}");
            let next = analyzer.analyze(&format!("SELECT 1 FROM t{}", start.len())).await;
            assert!(!next.is_unknown(), "after {start}: {:?}", next.trouble);
        }
    }

    #[tokio::test]
    async fn bulk_statements_fit_into_the_workers_memory() {
        let analyzer = analyzer(program(), 1).unwrap();
        let rows = format!("INSERT INTO t VALUES (1,'a'){}", ",(2,'b')".repeat(100_000));
        let analysis = analyzer.analyze(&rows).await;
        // Memory or time may run out in a slow build; both end in unknown, never in less than the truth.
        let effects = &analysis.operation.effects;
        assert!(effects.contains(&Effect::Insert) || effects.contains(&Effect::Unknown));
        assert!(!analyzer.analyze("SELECT 1").await.is_unknown());
    }

    #[tokio::test]
    async fn many_questions_share_the_workers() {
        let analyzer = analyzer(program(), 2).unwrap();
        let asked: Vec<_> = (0..50)
            .map(|number| {
                let analyzer = analyzer.clone();
                async move {
                    let analysis = analyzer.analyze(&format!("SELECT a FROM t{number}")).await;
                    assert_eq!(analysis.operation.relations.first().unwrap().name, format!("t{number}"));
                }
            })
            .collect();
        let mut set = tokio::task::JoinSet::new();
        for ask in asked {
            set.spawn(ask);
        }
        while let Some(done) = set.join_next().await {
            done.unwrap();
        }
    }

    #[tokio::test]
    async fn a_dropped_question_never_becomes_another_ones_answer() {
        let analyzer = analyzer(program(), 1).unwrap();
        assert!(!analyzer.analyze("SELECT 0").await.is_unknown());
        for number in 0..20 {
            let slow = format!("SELECT a FROM s{number} WHERE a IN (1{})", ",2".repeat(20_000));
            drop(tokio::time::timeout(Duration::from_micros(500), analyzer.analyze(&slow)).await);
            let analysis = analyzer.analyze(&format!("SELECT a FROM q{number}")).await;
            assert_eq!(analysis.operation.relations.first().unwrap().name, format!("q{number}"));
        }
    }

    #[tokio::test]
    async fn the_end_of_the_daemon_makes_everything_unknown() {
        let shutdown = Shutdown::default();
        let analyzer = Analyzer::start(&Settings { program: program(), workers: 1 }, &shutdown).unwrap();
        shutdown.advance(Phase::Forced);
        assert!(analyzer.analyze("SELECT 1").await.is_unknown());
        assert!(analyzer.cached("SELECT 1").is_none());
    }

    #[tokio::test]
    async fn no_worker_and_no_program_are_errors_at_the_start() {
        assert!(matches!(analyzer(program(), 0), Err(SqlError::NoWorkers)));
        assert!(matches!(analyzer("/nowhere/chaperone".into(), 1), Err(SqlError::Spawn { .. })));
    }

    #[tokio::test]
    async fn workers_that_lie_hang_or_end_make_statements_unknown() {
        for (name, script) in [
            ("ends", "exit 0"),
            ("nonsense", "cat /proc/version; sleep 5"),
            ("lying", r"printf '\026\000\000\000chaperone-sql-worker 1\003\000\000\000abc'; exec sleep 5"),
            ("endless", r"printf '\026\000\000\000chaperone-sql-worker 1\377\377\377\377'; exec sleep 5"),
            ("silent", r"printf '\026\000\000\000chaperone-sql-worker 1'; exec sleep 5"),
        ] {
            let program = stand_in(name, script);
            let analyzer = analyzer(program.clone(), 1).unwrap();
            let analysis = analyzer.analyze("SELECT 1").await;
            assert!(analysis.is_unknown(), "{name}");
            assert!(analyzer.cached("SELECT 1").is_none(), "{name}: passing trouble is not remembered");
            std::fs::remove_file(program).unwrap();
        }
    }

    #[test]
    fn a_worker_is_confined_before_it_reads() {
        let mut child = worker();
        assert_eq!(status_line(&child, "Seccomp:"), "2");
        assert_eq!(status_line(&child, "NoNewPrivs:"), "1");
        assert_eq!(status_line(&child, "Threads:"), "1");
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        for (name, limit) in [("Max open files", "3"), ("Max core file size", "0"), ("Max processes", "0")] {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
            assert_eq!(line.trim_start_matches(name).split_whitespace().next(), Some(limit), "{line}");
        }
        assert_eq!(std::fs::read(format!("/proc/{}/environ", child.id())).unwrap(), b"");
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success(), "a worker ends when the daemon's pipe closes");
    }

    #[test]
    fn a_frame_longer_than_any_text_ends_the_worker() {
        let mut child = worker();
        child.stdin.as_mut().unwrap().write_all(&u32::MAX.to_le_bytes()).unwrap();
        // The pipe stays open on our side: only the frame can end it.
        let ended = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            child.try_wait().unwrap()
        });
        assert!(!ended.unwrap().success());
    }
}
