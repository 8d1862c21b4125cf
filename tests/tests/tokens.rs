//! Agents with tokens, from the provider to the native error: what is not a valid token opens no session.
//!
//! Real provider over HTTPS, real daemon, real PostgreSQL; the policy permits the identified agent and nobody else.
//! Every refusal stands between two acceptances, so that none can come from a daemon that refuses everything.

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use chaperone_tests::ca::Ca;
    use chaperone_tests::oidc::{Behaviour, Provider, SigningKey};
    use chaperone_tests::shop::{Setup, Shop};
    use chaperone_tests::talk::{Reply, Talk};
    use chaperone_tests::{temp, wait};
    use serde_json::{Value, json};

    const LIMIT: Duration = Duration::from_secs(60);
    const ITEM: &str = "SELECT item FROM orders WHERE id = 7";

    fn code(reply: &Reply) -> &str {
        reply.code.as_deref().unwrap_or("none")
    }

    /// A shop whose agent has a token, and nothing for those without.
    struct Identified {
        shop: Shop,
        provider: Provider,
        dir: temp::Dir,
        _runtime: tokio::runtime::Runtime,
    }

    impl Identified {
        fn open(behaviour: Behaviour) -> Self {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let dir = temp::Dir::new("identified").unwrap();
            let ca = Ca::new("test authority").unwrap();
            let provider = runtime.block_on(Provider::start(&ca)).unwrap();
            provider.behave(behaviour);
            let ca_file = dir.write("ca.pem", ca.pem(), 0o644).unwrap();
            let token_file = dir.path().join("token");
            let agent = format!(
                "identity = {{ issuer = \"{}\", audience = \"chaperone\", token_file = \"{}\", ca_file = \"{}\" }}\n",
                provider.issuer(),
                token_file.display(),
                ca_file.display()
            );
            let permit = "@id(\"the-worker\")\npermit (principal == Agent::\"worker\", action, resource in Resource::\"shop-db\");\n";
            let setup = Setup { agent, policy: permit.to_owned(), ..Setup::default() };
            let mut this = Self { shop: Shop::prepare(&setup).unwrap(), provider, dir, _runtime: runtime };
            this.place(&this.good());
            this.shop.daemon.launch().unwrap();
            this
        }

        fn claims(&self) -> Value {
            self.provider.claims("svc-worker", "chaperone", &["readers"])
        }

        fn good(&self) -> String {
            self.provider.mint(&self.claims()).unwrap()
        }

        fn place(&self, token: &str) {
            let fresh = self.dir.write("token.new", token, 0o600).unwrap();
            std::fs::rename(fresh, self.dir.path().join("token")).unwrap();
        }

        /// Waits until a new session is answered with this code.
        fn answers(&self, wanted: &str, why: &str) -> Reply {
            wait::until(why, LIMIT, || {
                let hello = self.shop.hello()?;
                Ok((code(&hello) == wanted).then_some(hello))
            })
            .unwrap()
        }
    }

    #[test]
    fn tokens_that_are_expired_forged_foreign_or_unsigned_are_refused() {
        let stage = Identified::open(Behaviour::Correct);
        stage.answers("none", "a good token to be accepted");
        let with = |key: &str, value: Value| {
            let mut claims = stage.claims();
            claims.as_object_mut().unwrap().insert(key.to_owned(), value);
            stage.provider.mint(&claims).unwrap()
        };
        let now = stage.claims()["iat"].as_u64().unwrap();
        let expired = {
            let mut claims = stage.claims();
            let map = claims.as_object_mut().unwrap();
            map.extend(
                [("iat", now - 900), ("nbf", now - 900), ("exp", now - 600)]
                    .map(|(k, v)| (k.to_owned(), json!(v))),
            );
            stage.provider.mint(&claims).unwrap()
        };
        let unsigned = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode("{\"alg\":\"none\",\"typ\":\"JWT\"}"),
            URL_SAFE_NO_PAD.encode(stage.claims().to_string())
        );
        let tokens = [
            ("expired", expired),
            ("forged", SigningKey::new("key-1").unwrap().mint(&stage.claims()).unwrap()),
            ("foreign audience", with("aud", json!("somebody-else"))),
            ("foreign issuer", with("iss", json!("https://localhost:1"))),
            ("alg=none", unsigned),
            ("garbage", "not.a.token".to_owned()),
        ];
        for (name, token) in tokens {
            stage.place(&token);
            let refused = stage.answers("28000", &format!("a token that is {name} to be refused"));
            assert!(refused.closed || refused.rows.is_empty(), "{name}: {refused:?}");
            stage.place(&stage.good());
            stage.answers("none", "a good token to be accepted again");
        }
    }

    #[test]
    fn an_open_session_of_an_agent_whose_token_went_bad_is_refused_per_request() {
        let stage = Identified::open(Behaviour::Correct);
        let (mut talk, hello) = Talk::dial(&stage.shop.agent(), &stage.shop.server).unwrap();
        assert_eq!(code(&hello), "none", "{hello:?}");
        talk.ask(ITEM).unwrap().cell().unwrap();
        stage.place("not.a.token");
        stage.answers("28000", "the bad token to be noticed");
        let refused = talk.ask(ITEM).unwrap();
        assert_eq!(code(&refused), "28000", "{refused:?}");
        assert!(refused.rows.is_empty());
    }

    #[test]
    fn a_provider_that_is_down_at_start_means_refusal_and_service_once_it_is_up() {
        let stage = Identified::open(Behaviour::Down);
        let hello = stage.shop.hello().unwrap();
        assert_eq!(code(&hello), "28000", "{hello:?}");
        let doctor = stage.shop.daemon.cli(&["doctor"]).unwrap();
        assert!(
            doctor.status.code() == Some(1) && doctor.stdout.contains("BAD   identity"),
            "{}",
            doctor.both()
        );
        stage.provider.behave(Behaviour::Correct);
        stage.answers("none", "service after the provider came up");
    }
}
