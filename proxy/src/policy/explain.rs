//! Why a decision came out as it did: every question that was asked, what fired, and what nearly did.
//!
//! For operators, never for agents: it names policies and their places. It asks the same questions as
//! [`Set::decide`] and combines them with the same code, so the explanation cannot disagree with the decision.

use serde::Serialize;

use super::evaluate::{Answered, Question};
use super::rule::{Kind, Rule};
use super::set::Set;
use super::slice;
use crate::model::{Decision, Principal};

/// A decision with everything behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What [`Set::decide`] says.
    pub decision: Decision,
    /// Every question, in the order asked. Empty when the request was refused before any could be asked.
    pub asked: Vec<Asked>,
}

/// One question of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// `run` or `runUnattended`.
    pub action: &'static str,
    /// The object as policies name it.
    pub object: String,
    /// The object is another name that the written one may stand for; only forbids count.
    pub alias: bool,
    /// What came out.
    pub answer: Answer,
    /// Policies that decided it: `id (file:line)`.
    pub fired: Vec<String>,
    /// Permits that nearly fired, when none did.
    pub near: Vec<Near>,
    /// Errors; any makes the verdict a denial.
    pub errors: Vec<String>,
}

/// The engine's answer to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A permit fired and no forbid.
    Permitted,
    /// A forbid fired.
    Forbidden,
    /// No permit fired.
    NotPermitted,
}

/// A permit that did not fire, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Near {
    /// `id (file:line)`.
    pub policy: String,
    /// What it lacked.
    pub why: &'static str,
}

/// More near misses than this do not help anyone.
const NEAR_MAX: usize = 8;

impl Set {
    /// Decides a request and says why.
    #[must_use]
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        match self.answers(question) {
            Ok(answers) => Explanation {
                decision: self.combine(&answers),
                asked: answers.iter().map(|answered| self.asked(question.principal, answered)).collect(),
            },
            Err(error) => Explanation { decision: self.refuse(vec![error]), asked: Vec::new() },
        }
    }

    fn asked(&self, principal: &Principal, answered: &Answered) -> Asked {
        let fired = answered.fired.iter().filter_map(|index| self.rule(*index));
        let answer = match (answered.allowed, answered.fired.is_empty()) {
            (true, _) => Answer::Permitted,
            (false, false) => Answer::Forbidden,
            (false, true) => Answer::NotPermitted,
        };
        let near = match answer {
            Answer::NotPermitted if !answered.alias => self.near(principal, answered),
            Answer::NotPermitted | Answer::Permitted | Answer::Forbidden => Vec::new(),
        };
        Asked {
            action: answered.action.as_str(),
            object: answered.slice.resource.to_string(),
            alias: answered.alias,
            answer,
            fired: fired.map(|rule| self.place(rule)).collect(),
            near,
            errors: answered.errors.clone(),
        }
    }

    fn near(&self, principal: &Principal, answered: &Answered) -> Vec<Near> {
        let who = slice::principal_lineage(self.vocabulary(), principal);
        let mut near = Vec::new();
        for (index, rule) in self.rules().iter().enumerate().filter(|(_, rule)| rule.kind() == Kind::Permit) {
            let why = if answered.slice.rules.contains(&index) {
                if answered.unnamed && !rule.names_unidentified(&self.vocabulary().unidentified) {
                    "it does not name unidentified principals on purpose"
                } else {
                    "its scope fits, its condition is false"
                }
            } else if !rule.principal_fits(&who) {
                continue;
            } else if rule.actions().contains(&answered.action) {
                "it is about other objects"
            } else {
                "it is about another action"
            };
            near.push(Near { policy: self.place(rule), why });
        }
        // Those whose scope fits say the most.
        near.sort_by_key(|near| !near.why.starts_with("its scope"));
        near.truncate(NEAR_MAX);
        near
    }

    fn place(&self, rule: &Rule) -> String {
        let finding = self.finding(rule, String::new());
        format!("{} ({}:{})", rule.id(), finding.file, finding.line)
    }
}
