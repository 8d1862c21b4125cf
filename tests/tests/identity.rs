//! Identity against a real OpenID provider over HTTPS and real processes in real cgroups.
//!
//! Needs root for cgroups. Leaves no cgroup and no process behind.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use chaperone::clock::Clock;
    use chaperone::identity::{
        AgentMatch, AgentSettings, IdentityError, ProcessOrigin, Resolver, Settings, TokenSource,
    };
    use chaperone::model::{AgentName, Identity, Unidentified};
    use chaperone::shutdown::{Phase, Shutdown};
    use chaperone_tests::ca::Ca;
    use chaperone_tests::oidc::{Behaviour, OldKey, Provider, SigningKey};
    use serde_json::json;

    /// Everything one test needs, gone when dropped.
    struct Bench {
        dir: PathBuf,
        provider: Provider,
        source: TokenSource,
        shutdown: Shutdown,
    }

    impl Bench {
        async fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("chaperone-{name}-{}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            let ca = Ca::new("test authority").unwrap();
            let provider = Provider::start(&ca).await.unwrap();
            provider.register("reporter", "s3cret & more", "svc-reporter", &["readers"]);
            let source = TokenSource {
                issuer: provider.issuer().to_owned(),
                audience: "chaperone".into(),
                token_file: dir.join("token"),
                ca_file: Some(ca.write(&dir, "ca.pem").unwrap()),
                subject: Some("svc-reporter".into()),
                groups_claim: "groups".into(),
                lifetime_max: Duration::from_secs(3600),
            };
            Self { dir, provider, source, shutdown: Shutdown::default() }
        }

        async fn resolver(&self) -> Resolver {
            let agent = AgentSettings { name: reporter(), matches: None, source: Some(self.source.clone()) };
            let settings = Settings {
                agents: vec![agent],
                parent: "chaperone-test.slice".into(),
                steps: "/nonexistent".into(),
            };
            Resolver::start(&settings, &Clock::system(), &self.shutdown).await.unwrap()
        }

        fn place(&self, token: &str) {
            fs::write(self.dir.join("next"), token).unwrap();
            fs::rename(self.dir.join("next"), &self.source.token_file).unwrap();
        }

        fn ordinary(&self) -> String {
            self.provider.mint(&self.provider.claims("svc-reporter", "chaperone", &["readers"])).unwrap()
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.shutdown.advance(Phase::Forced);
            fs::remove_dir_all(&self.dir).unwrap();
        }
    }

    fn reporter() -> AgentName {
        AgentName("reporter".into())
    }

    fn now(resolver: &Resolver) -> Result<(), Unidentified> {
        match &resolver.principal(&reporter()).identity {
            Identity::Verified { .. } => Ok(()),
            Identity::Unidentified { reason } => Err(*reason),
        }
    }

    /// Waits until the identity is as expected.
    async fn becomes(resolver: &Resolver, expected: Result<(), Unidentified>) {
        let arrived = tokio::time::timeout(Duration::from_secs(15), async {
            while now(resolver) != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(arrived.await.is_ok(), "expected {expected:?}, have {:?}", resolver.agents());
    }

    #[tokio::test]
    async fn a_token_of_the_provider_is_verified_by_keys_it_publishes() {
        let bench = Bench::new("discovery").await;
        let token =
            bench.provider.client_credentials("reporter", "s3cret & more", "chaperone").await.unwrap();
        assert!(bench.provider.client_credentials("reporter", "wrong", "chaperone").await.is_err());
        bench.place(&token);
        let resolver = bench.resolver().await;
        let principal = resolver.principal(&reporter());
        let Identity::Verified { issuer, subject, groups, .. } = &principal.identity else {
            panic!("{:?}", resolver.agents());
        };
        assert_eq!((issuer.as_str(), subject.as_str()), (bench.provider.issuer(), "svc-reporter"));
        assert!(groups.contains("readers"));
        let stranger = resolver.principal(&AgentName("stranger".into()));
        assert!(matches!(stranger.identity, Identity::Unidentified { reason: Unidentified::NoSource }));
    }

    #[tokio::test]
    async fn a_provider_that_is_down_at_start_is_used_once_it_is_up() {
        let bench = Bench::new("late").await;
        bench.provider.behave(Behaviour::Down);
        bench.place(&bench.ordinary());
        let resolver = bench.resolver().await;
        assert_eq!(now(&resolver), Err(Unidentified::KeysUnavailable));
        assert!(resolver.agents().first().unwrap().problem.is_some());
        let mut changes = resolver.subscribe();
        bench.provider.behave(Behaviour::Correct);
        becomes(&resolver, Ok(())).await;
        let change = changes.recv().await.unwrap();
        assert!(matches!(change.principal.identity, Identity::Verified { .. }));
    }

    #[tokio::test]
    async fn a_new_key_is_fetched_at_once_and_a_forged_key_id_does_not_hammer_the_provider() {
        let bench = Bench::new("rotation").await;
        bench.place(&bench.ordinary());
        let resolver = bench.resolver().await;
        assert_eq!(now(&resolver), Ok(()));
        assert_eq!(bench.provider.key_requests(), 1);
        bench.provider.rotate(OldKey::Kept).unwrap();
        bench.place(
            &bench.provider.mint(&bench.provider.claims("svc-reporter", "chaperone", &["new"])).unwrap(),
        );
        let renewed = async {
            loop {
                match &resolver.principal(&reporter()).identity {
                    Identity::Verified { groups, .. } if groups.contains("new") => break,
                    Identity::Verified { .. } | Identity::Unidentified { .. } => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(15), renewed).await.unwrap();
        assert_eq!(bench.provider.key_requests(), 2);
        let claims = bench.provider.claims("svc-reporter", "chaperone", &[]);
        bench.place(&SigningKey::new("forged").unwrap().mint(&claims).unwrap());
        becomes(&resolver, Err(Unidentified::Invalid)).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(bench.provider.key_requests(), 2);
    }

    #[tokio::test]
    async fn an_outage_after_a_good_start_does_not_stop_new_tokens_of_known_keys() {
        let bench = Bench::new("outage").await;
        bench.place(&bench.ordinary());
        let resolver = bench.resolver().await;
        bench.provider.behave(Behaviour::Down);
        bench.place("garbage");
        becomes(&resolver, Err(Unidentified::NoToken)).await;
        bench.place(&bench.ordinary());
        becomes(&resolver, Ok(())).await;
    }

    #[tokio::test]
    async fn bad_tokens_of_a_good_provider_are_refused() {
        let bench = Bench::new("bad").await;
        let good = bench.provider.claims("svc-reporter", "chaperone", &[]);
        bench.place(&bench.provider.mint(&good).unwrap());
        let resolver = bench.resolver().await;
        for (name, value, reason) in [
            ("aud", json!("elsewhere"), Unidentified::Invalid),
            ("sub", json!("svc-other"), Unidentified::Invalid),
            ("iss", json!("https://idp.elsewhere"), Unidentified::Invalid),
            ("exp", json!(good["iat"].as_u64().unwrap() - 31), Unidentified::Expired),
            ("exp", json!(good["iat"].as_u64().unwrap() + 3601), Unidentified::Invalid),
        ] {
            let mut claims = good.clone();
            claims[name] = value;
            bench.place(&bench.provider.mint(&claims).unwrap());
            becomes(&resolver, Err(reason)).await;
            bench.place(&bench.ordinary());
            becomes(&resolver, Ok(())).await;
        }
    }

    #[tokio::test]
    async fn a_provider_that_misbehaves_yields_no_keys() {
        for behaviour in [Behaviour::OtherIssuer, Behaviour::Redirect, Behaviour::Flood, Behaviour::Silent] {
            let bench = Bench::new(&format!("odd-{behaviour:?}")).await;
            bench.provider.behave(behaviour);
            bench.place(&bench.ordinary());
            let resolver = bench.resolver().await;
            assert_eq!(now(&resolver), Err(Unidentified::KeysUnavailable), "{behaviour:?}");
        }
    }

    #[tokio::test]
    async fn a_provider_certified_by_another_authority_yields_no_keys() {
        let mut bench = Bench::new("foreign").await;
        let other = Ca::new("another authority").unwrap().write(&bench.dir, "other.pem").unwrap();
        bench.source.ca_file = Some(other);
        bench.place(&bench.ordinary());
        assert_eq!(now(&bench.resolver().await), Err(Unidentified::KeysUnavailable));
    }

    #[tokio::test]
    async fn the_tasks_end_with_the_resolver_and_with_the_daemon() {
        let bench = Bench::new("end").await;
        let resolver = bench.resolver().await;
        assert_eq!(bench.shutdown.tasks(), 2);
        drop(resolver);
        tokio::time::timeout(Duration::from_secs(5), bench.shutdown.drained()).await.unwrap();
        let _resolver = bench.resolver().await;
        bench.shutdown.advance(Phase::Draining);
        tokio::time::timeout(Duration::from_secs(5), bench.shutdown.drained()).await.unwrap();
    }

    /// A process asleep in its own cgroup; both are gone when dropped.
    struct Asleep {
        child: Child,
        cgroup: PathBuf,
        made: Vec<PathBuf>,
    }

    impl Asleep {
        fn at(below: &str) -> Self {
            let mut cgroup = cgroup2();
            let mut made = Vec::new();
            for name in Path::new(below) {
                cgroup.push(name);
                if !cgroup.exists() {
                    fs::create_dir(&cgroup).unwrap();
                    made.push(cgroup.clone());
                }
            }
            let child = Command::new("/bin/sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
            fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
            // The child is this very program for a moment longer.
            let exe = format!("/proc/{}/exe", child.id());
            while !fs::read_link(&exe).unwrap().ends_with("sleep") {
                std::thread::sleep(Duration::from_millis(1));
            }
            Self { child, cgroup, made }
        }

        fn origin(&self) -> ProcessOrigin {
            use std::os::unix::fs::MetadataExt;
            ProcessOrigin {
                account: 0,
                cgroup_id: fs::metadata(&self.cgroup).unwrap().ino(),
                pid: self.child.id(),
                uid: 0,
                connected_ns: u64::MAX,
                netns: None,
            }
        }
    }

    impl Drop for Asleep {
        fn drop(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
            for dir in self.made.iter().rev() {
                // The kernel lets go of the dead process a moment after `wait` returns.
                while fs::remove_dir(dir).is_err() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    fn cgroup2() -> PathBuf {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
        PathBuf::from(line.split(' ').nth(4).unwrap())
    }

    async fn plain_resolver(parent: &str, matches: Option<AgentMatch>, shutdown: &Shutdown) -> Resolver {
        let agent = AgentSettings { name: reporter(), matches, source: None };
        let settings = Settings { agents: vec![agent], parent: parent.into(), steps: "/nonexistent".into() };
        Resolver::start(&settings, &Clock::system(), shutdown).await.unwrap()
    }

    #[tokio::test]
    async fn a_process_in_a_tagged_cgroup_is_its_agent_with_evidence() {
        let parent = format!("chaperone-test-{}.slice", std::process::id());
        let shutdown = Shutdown::default();
        let resolver = plain_resolver(&parent, None, &shutdown).await;
        let asleep = Asleep::at(&format!("{parent}/reporter/run-1"));
        let found = resolver.identify(&asleep.origin()).await.unwrap();
        assert_eq!(found.agent, reporter());
        assert_eq!(found.evidence.cgroup, format!("{parent}/reporter/run-1"));
        assert!(found.evidence.exe.ends_with("sleep") && found.evidence.exe_sha256.len() == 64);
        assert_eq!(found.evidence.parents.first().unwrap().pid, std::process::id());
        // The pid is only a hint: another one, or none, still finds the cgroup by its id.
        let other = ProcessOrigin { pid: std::process::id(), ..asleep.origin() };
        assert_eq!(resolver.identify(&other).await.unwrap().agent, reporter());
        let none = ProcessOrigin { pid: 0, ..asleep.origin() };
        let found = resolver.identify(&none).await.unwrap();
        assert_eq!((found.agent, found.evidence.exe.as_str()), (reporter(), ""));
        let early = ProcessOrigin { connected_ns: 1, ..asleep.origin() };
        assert!(matches!(resolver.identify(&early).await, Err(IdentityError::Reused { .. })));
        let id = asleep.origin();
        drop(asleep);
        assert!(matches!(resolver.identify(&id).await, Err(IdentityError::UnknownCgroup { .. })));
    }

    #[tokio::test]
    async fn a_unit_and_a_glob_name_their_agent_and_others_are_refused() {
        let shutdown = Shutdown::default();
        let slice = format!("chaperone-match-{}.slice", std::process::id());
        let unit = Some(AgentMatch::Unit("reporter.service".into()));
        let by_unit = plain_resolver("none.slice", unit, &shutdown).await;
        let by_glob =
            plain_resolver("none.slice", Some(AgentMatch::Cgroup(format!("{slice}/rep*"))), &shutdown).await;
        let mine = Asleep::at(&format!("{slice}/reporter.service"));
        let other = Asleep::at(&format!("{slice}/other.service/reporter.service"));
        for resolver in [&by_unit, &by_glob] {
            assert_eq!(resolver.identify(&mine.origin()).await.unwrap().agent, reporter());
            assert!(matches!(resolver.identify(&other.origin()).await, Err(IdentityError::NoAgent { .. })));
        }
    }
}
