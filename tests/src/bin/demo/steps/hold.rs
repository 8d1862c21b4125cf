//! The step with two people: the agent's write waits, somebody else decides, the write runs.
//!
//! Checks from three sides: the agent is told its ticket while it waits, the database is unchanged until the
//! approval, and the agent's own account cannot decide.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaperone_tests::process::{self, Running};
use chaperone_tests::wait;

use crate::report::{print_output, say, show};
use crate::stage::{APPROVER, LIMIT, Stage};

const SQL: &str = "UPDATE orders SET status = 'sent' WHERE id = 4";
const LOOK: &str = "SELECT status FROM orders WHERE id = 4";

/// Held, refused to the wrong account, approved by the right one, run.
pub(crate) fn update(stage: &mut Stage) -> Result<String> {
    let before = stage.server.query(LOOK)?;
    ensure!(before != "sent", "the sample already has the value that is to be written");
    say(&format!("the owner sees order 4 as `{before}`"));
    say(&format!("$ {}   (in the background)", stage.typed(&format!("psql -c \"{SQL}\""))));
    let mut waiting = Running::start(&mut stage.agent().psql(&stage.server, &[SQL]))?;
    let ticket = find_ticket(stage, &mut waiting)?;
    stage.ticket = Some(ticket.clone());
    ensure!(stage.server.query(LOOK)? == before, "the write reached the database before anybody approved");
    show(
        &format!("chaperone approvals show {ticket}"),
        &mut stage.as_approver(&["approvals", "show", &ticket])?,
        LIMIT,
    )?
    .success()?;
    refuse_the_agent(stage, &ticket)?;
    ensure!(waiting.is_alive()?, "the statement stopped waiting");
    let typed = format!("chaperone approvals approve {ticket}   (as `{APPROVER}`)");
    show(&typed, &mut stage.as_approver(&["approvals", "approve", &ticket])?, LIMIT)?.success()?;
    let done = waiting.finish(LIMIT)?;
    say("the waiting psql:");
    print_output(&done);
    ensure!(done.stderr.contains(&ticket), "the agent was not told its ticket");
    ensure!(done.status.success() && done.stdout.contains("UPDATE 1"), "the approved write did not run");
    ensure!(stage.server.query(LOOK)? == "sent", "the database does not have the new value");
    Ok(format!("{ticket}: held, refused to the agent's account, approved by `{APPROVER}`, UPDATE 1"))
}

/// The only ticket that is pending.
fn find_ticket(stage: &Stage, waiting: &mut Running) -> Result<String> {
    let listed = wait::until("a ticket in the list", Duration::from_secs(20), || {
        ensure!(waiting.is_alive()?, "psql ended without waiting for an approval");
        let list = process::run(&mut stage.as_approver(&["approvals", "list"])?, LIMIT)?;
        Ok(ticket_in(&list.stdout).map(|ticket| (ticket, list)))
    })?;
    let (ticket, list) = listed;
    say(&format!("$ chaperone approvals list   (as `{APPROVER}`)"));
    print_output(&list);
    Ok(ticket)
}

fn ticket_in(text: &str) -> Option<String> {
    let mut words = text.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '-');
    words.find(|word| word.starts_with("T-") && word.len() == 10).map(str::to_owned)
}

/// Neither the agent's account nor the agent itself may decide.
fn refuse_the_agent(stage: &Stage, ticket: &str) -> Result<()> {
    let words = ["approvals", "approve", ticket];
    let typed = format!("chaperone approvals approve {ticket}   (as the agent's account)");
    let outside = show(&typed, &mut stage.as_account("nobody", &words)?, LIMIT)?;
    ensure!(!outside.status.success(), "the agent's account could approve");
    let mut inside = stage.agent().command(stage.daemon.program());
    inside.args(words).arg("--config").arg(stage.daemon.config());
    let inside = show(&stage.typed(&format!("chaperone approvals approve {ticket}")), &mut inside, LIMIT)?;
    ensure!(!inside.status.success(), "the agent could approve its own write");
    let state = stage.server.query(LOOK).context("the database stopped answering")?;
    ensure!(state != "sent", "a refused approval released the write");
    Ok(())
}
