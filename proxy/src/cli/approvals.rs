//! `chaperone approvals`: the approver's side.
//!
//! Everything an agent wrote is shown inert: control and bidirectional characters are made visible.

use std::process::ExitCode;

use clap::Subcommand;

use super::{ConfigFile, print_json, refused};
use crate::approval::{Ticket, Vote};
use crate::control::{Answer, Call};
use crate::model::TicketId;

/// What to do with held requests.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List open tickets.
    List {
        /// Closed ones too.
        #[arg(long)]
        all: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Configuration.
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Show one ticket in full.
    Show {
        /// Ticket id, `T-…`.
        ticket: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Configuration.
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Let a request go on.
    Approve(Voting),
    /// Refuse a request.
    Deny(Voting),
}

/// A vote.
#[derive(Debug, clap::Args)]
pub struct Voting {
    /// Ticket id, `T-…`.
    ticket: String,
    /// Why, in your words; recorded.
    #[arg(long)]
    reason: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: ConfigFile,
}

/// Runs the command.
///
/// # Errors
/// When no daemon answers or the ticket id cannot be read.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { all, json, file } => match file.call(&Call::Tickets { all })? {
            Answer::Tickets { tickets } if json => print_json(&tickets)?,
            Answer::Tickets { tickets } => tickets.iter().for_each(print_line),
            other => return Ok(refused(&other)),
        },
        Command::Show { ticket, json, file } => {
            return one(&file.call(&Call::Ticket { id: id(ticket)? })?, json);
        }
        Command::Approve(voting) => return vote(voting, Vote::Approve),
        Command::Deny(voting) => return vote(voting, Vote::Deny),
    }
    Ok(ExitCode::SUCCESS)
}

fn vote(voting: Voting, vote: Vote) -> anyhow::Result<ExitCode> {
    let call = Call::Vote { id: id(voting.ticket)?, vote, reason: voting.reason };
    one(&voting.file.call(&call)?, voting.json)
}

fn id(text: String) -> anyhow::Result<TicketId> {
    TicketId::try_from(text).map_err(anyhow::Error::msg)
}

fn one(answer: &Answer, json: bool) -> anyhow::Result<ExitCode> {
    match answer {
        Answer::Ticket(ticket) if json => print_json(ticket)?,
        Answer::Ticket(ticket) => print_ticket(ticket),
        other => return Ok(refused(other)),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_line(ticket: &Ticket) {
    println!("{}  {}  {}  {}  {}", ticket.id, ticket.state, ticket.agent, ticket.resource, ticket.statement);
}

fn print_ticket(ticket: &Ticket) {
    println!("ticket     {}  {}", ticket.id, ticket.state);
    println!("agent      {} ({})", ticket.agent, ticket.subject.as_deref().unwrap_or("unidentified"));
    println!("resource   {}", ticket.resource);
    println!("statement  {}", ticket.statement);
    for (number, value) in ticket.values.iter().enumerate() {
        println!("value ${}   {}", number.saturating_add(1), value.text.as_deref().unwrap_or("NULL"));
    }
    println!("held by    {}", ticket.policies.join(", "));
    if ticket.in_transaction {
        println!("warning    it waits inside a transaction and keeps locks on the resource");
    }
    if let Some(step) = &ticket.step {
        println!("step       {step} (as the agent's launcher stated it)");
    }
    let groups: Vec<&str> = ticket.terms.approvers.iter().map(String::as_str).collect();
    println!(
        "needs      {} of {}",
        ticket.terms.quorum,
        if groups.is_empty() { "any approver".into() } else { groups.join(" and ") }
    );
    for ballot in &ticket.ballots {
        let said = match ballot.vote {
            Vote::Approve => "approved",
            Vote::Deny => "denied",
        };
        println!("vote       {} {said} {}", ballot.by, ballot.reason.as_deref().unwrap_or(""));
    }
}
