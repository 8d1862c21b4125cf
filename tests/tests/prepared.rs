//! SQL's own `PREPARE` and `EXECUTE` end to end: preparing waits for nobody, running waits with both texts before the
//! approver, and what policy denies cannot even be prepared.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]

use anyhow::Result;
use chaperone_tests::shop::{APPROVERS, POLICY, Setup, Shop};
use serde_json::Value;

const REMOVE: &str = "PREPARE q (integer) AS DELETE FROM orders WHERE id = $1";

fn shop() -> Result<Shop> {
    let no_inserts = "\n@id(\"no-inserts\")\nforbid (principal, action == Action::\"run\", resource)\n\
                      when { context.effects.contains(\"insert\") };\n";
    Shop::open(&Setup { policy: format!("{POLICY}{no_inserts}"), ..Setup::default() })
}

fn ticket(shop: &Shop, id: &str) -> Result<Value> {
    let text = shop.daemon.cli(&["approvals", "show", id, "--json"])?.success()?;
    Ok(serde_json::from_str(&text)?)
}

fn orders(shop: &Shop) -> Result<String> {
    shop.server.query("SELECT count(*) FROM orders WHERE id IN (7, 8)")
}

#[test]
fn preparing_waits_for_nobody_and_each_run_waits_with_both_texts() {
    let shop = shop().unwrap();
    let mut talk = shop.talk().unwrap();
    assert_eq!(talk.ask(REMOVE).unwrap().code, None);
    assert_eq!(shop.tickets().unwrap(), [], "nothing has run yet");

    talk.send("EXECUTE q (7)").unwrap();
    let first = shop.pending().unwrap();
    let shown = ticket(&shop, &first).unwrap();
    let statement = shown.get("statement").and_then(Value::as_str).unwrap();
    assert!(statement.contains(REMOVE) && statement.ends_with("EXECUTE q (7)"), "{statement}");
    assert_eq!(orders(&shop).unwrap(), "2");
    shop.vote(APPROVERS[0], "approve", &first).unwrap().success().unwrap();
    assert_eq!(talk.reply().unwrap().code, None);
    assert_eq!(orders(&shop).unwrap(), "1");

    talk.send("EXECUTE q (8)").unwrap();
    let second = shop.pending().unwrap();
    assert_ne!(first, second, "an approval fits one argument");
    shop.vote(APPROVERS[0], "deny", &second).unwrap().success().unwrap();
    assert_eq!(talk.reply().unwrap().code.as_deref(), Some("42501"));
    assert_eq!((orders(&shop).unwrap().as_str(), shop.tickets().unwrap().len()), ("1", 2));

    let texts: Vec<String> = shop
        .records("request_decided")
        .unwrap()
        .iter()
        .filter_map(|record| Some(record.get("statement")?.as_str()?.to_owned()))
        .collect();
    assert!(texts.iter().any(|text| text.contains(REMOVE) && text.ends_with("EXECUTE q (7)")), "{texts:?}");
}

#[test]
fn an_approval_fits_one_prepared_text() {
    let shop = shop().unwrap();
    let mut talk = shop.talk().unwrap();
    talk.ask(REMOVE).unwrap();
    talk.send("EXECUTE q (7)").unwrap();
    let first = shop.pending().unwrap();
    drop(talk);
    shop.vote(APPROVERS[0], "approve", &first).unwrap().success().unwrap();
    let mut talk = shop.talk().unwrap();
    talk.ask(&REMOVE.replace("id = $1", "id = $1 + 1")).unwrap();
    talk.send("EXECUTE q (7)").unwrap();
    assert_ne!(shop.pending().unwrap(), first, "the same words would remove another order");
    assert_eq!(orders(&shop).unwrap(), "2");
}

#[test]
fn a_text_with_more_than_prepares_waits_as_a_whole_and_so_does_what_runs_inside_another() {
    let shop = shop().unwrap();
    let mut talk = shop.talk().unwrap();
    talk.send(&format!("{REMOVE}; SELECT 1")).unwrap();
    let id = shop.pending().unwrap();
    shop.vote(APPROVERS[0], "approve", &id).unwrap().success().unwrap();
    assert_eq!(talk.reply().unwrap().code, None);
    let reply = talk.ask("EXPLAIN ANALYZE EXECUTE q (7)").unwrap();
    assert_eq!(reply.code.as_deref(), Some("42501"), "{reply:?}");
    assert_eq!(orders(&shop).unwrap(), "2");
}

#[test]
fn what_policy_denies_cannot_be_prepared() {
    let shop = shop().unwrap();
    let mut talk = shop.talk().unwrap();
    let reply = talk.ask("PREPARE i AS INSERT INTO orders SELECT * FROM orders WHERE false").unwrap();
    assert_eq!(reply.code.as_deref(), Some("42501"), "{reply:?}");
    assert!(reply.message.contains("no-inserts"), "{reply:?}");
    assert!(talk.ask("EXECUTE i").unwrap().code.is_some(), "there is nothing to run");
}
