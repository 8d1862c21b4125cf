//! What the kernel counts for each agent, and the quarantine of one.

use chaperone::intercept::AccountCounts;

use super::*;

/// The counts of the account that `World::agent` runs in.
fn counts(world: &World) -> Option<AccountCounts> {
    let account = world.account();
    world.guard().accounts().unwrap().counts().unwrap().into_iter().find(|one| one.cgroup_id == account)
}

impl World {
    fn account(&self) -> u64 {
        Tree::find().unwrap().create(&self.settings.parent.join("reporter")).unwrap().id()
    }
}

#[tokio::test]
async fn connections_and_denials_are_counted_for_their_agent_and_no_other() {
    let world = World::new();
    let listener = world.listen();
    let agent = world.agent(&caller("AF_INET", "192.0.2.10"));
    let mut connection = next(&listener).await;
    assert_eq!(connection.origin.account, world.account());
    answer(&mut connection).await;
    assert!(said(agent).ends_with("pong"));
    let printed = world.agent_says(
        "print(attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.10', 5353))))",
    );
    assert_eq!(printed, "EPERM");
    let seen = counts(&world).unwrap();
    assert_eq!((seen.redirected, seen.delivered, seen.unanswered, seen.denied), (1, 1, 0, 1));
    assert_eq!(world.guard().accounts().unwrap().counts().unwrap().len(), 1);
}

#[tokio::test]
async fn a_connection_that_nobody_took_is_counted_as_unanswered() {
    let world = World::new();
    let printed = world.agent_says("print(attempt(lambda: socket.socket().connect(('192.0.2.10', 80))))");
    assert_eq!(printed, "ECONNREFUSED");
    let seen = counts(&world).unwrap();
    assert_eq!((seen.redirected, seen.delivered, seen.unanswered), (1, 0, 1));
}

#[tokio::test]
async fn a_quarantined_agent_opens_nothing_and_its_open_connections_fall_silent() {
    let world = World::new();
    let listener = world.listen();
    let agent = world.agent(
        "s = socket.create_connection(('192.0.2.10', 80)); s.sendall(b'one'); assert s.recv(9) == b'go'\n\
         s.setsockopt(socket.IPPROTO_TCP, 18, 500); s.sendall(b'two')\n\
         print(attempt(lambda: s.recv(9)), attempt(lambda: socket.socket().connect(('192.0.2.10', 80))))",
    );
    let mut connection = next(&listener).await;
    let mut word = [0; 3];
    connection.stream.read_exact(&mut word).await.unwrap();
    let mut accounts = world.guard().accounts().unwrap();
    accounts.quarantine(&[world.account()]).unwrap();
    connection.stream.write_all(b"go").await.unwrap();
    // What it sends afterwards never arrives: its own kernel drops it until the connection times out.
    let silent = timeout(Duration::from_millis(1500), connection.stream.read_exact(&mut word)).await;
    assert!(silent.is_err() || silent.unwrap().is_err(), "a quarantined agent was heard");
    assert_eq!(said(agent), "ETIMEDOUT EPERM");
    assert!(world.denied(Reason::Quarantined) > 1);
    assert_eq!(accounts.quarantined().unwrap(), [world.account()]);
    accounts.release(&[world.account()]).unwrap();
    let agent = world.agent(&caller("AF_INET", "192.0.2.10"));
    answer(&mut next(&listener).await).await;
    assert!(said(agent).ends_with("pong"), "an agent that was released stays stopped");
}

#[tokio::test]
async fn a_quarantine_covers_cgroups_below_and_outlives_the_daemon_and_no_other_agent_feels_it() {
    let mut world = World::new();
    world.guard().accounts().unwrap().quarantine(&[world.agent_cgroup().id()]).unwrap();
    world.guard = None;
    world.install();
    let listener = world.listen();
    let refused = "print(attempt(lambda: socket.socket().connect(('192.0.2.10', 80))))";
    assert_eq!(world.agent_says(refused), "EPERM");
    let other = Tree::find().unwrap().create(&world.settings.parent.join("writer").join("1")).unwrap();
    let agent = world.python(&caller("AF_INET", "192.0.2.10"), Some(&other));
    answer(&mut next(&listener).await).await;
    assert!(said(agent).ends_with("pong"));
}
