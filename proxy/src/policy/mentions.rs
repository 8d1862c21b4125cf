//! What a policy speaks of: the attributes, strings and objects that occur in its conditions.
//!
//! Used to refuse words that can never match, to deny when a fact that a policy needs is missing, and to know which
//! qualified names an unqualified one may stand for. It over-approximates: a mention is not a dependency.

use std::collections::BTreeSet;

use cedar_policy::Policy;
use serde_json::Value;

/// Everything one policy mentions.
#[derive(Debug, Default)]
pub(super) struct Mentions {
    /// Attribute names, of whatever they are read from.
    pub(super) attributes: BTreeSet<String>,
    /// String literals; the patterns of `like` without their wildcards.
    pub(super) strings: BTreeSet<String>,
    /// String literals that are compared with `context.effects`.
    pub(super) effects: BTreeSet<String>,
    /// String literals that are compared with `resource.class`.
    pub(super) classes: BTreeSet<String>,
}

impl Mentions {
    /// Collects over the conditions of a policy. `None` if the engine cannot render the policy as data.
    pub(super) fn of(policy: &Policy) -> Option<Self> {
        let json = policy.to_json().ok()?;
        let mut mentions = Self::default();
        if let Some(conditions) = json.get("conditions") {
            mentions.walk(conditions);
        }
        Some(mentions)
    }

    pub(super) fn has(&self, attribute: &str) -> bool {
        self.attributes.contains(attribute)
    }

    // Recursion depth is bounded by the policy parser's own limit on nesting.
    fn walk(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    match key.as_str() {
                        "attr" => strings_in(inner, &mut self.attributes),
                        "Value" => strings_in(inner, &mut self.strings),
                        // A record literal may be compared with a whole group of facts.
                        "Record" => {
                            self.attributes
                                .extend(inner.as_object().into_iter().flat_map(|map| map.keys().cloned()));
                        }
                        "pattern" => {
                            self.strings.insert(pattern_text(inner));
                        }
                        "contains" | "containsAny" | "containsAll" | "==" | "!=" => self.compare(inner),
                        _ => {}
                    }
                    self.walk(inner);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn compare(&mut self, arguments: &Value) {
        let (Some(left), Some(right)) = (arguments.get("left"), arguments.get("right")) else { return };
        for (side, other) in [(left, right), (right, left)] {
            let attribute = side.get(".").and_then(|access| access.get("attr")).and_then(Value::as_str);
            match attribute {
                Some("effects") => literals_in(other, &mut self.effects),
                Some("class") => literals_in(other, &mut self.classes),
                Some(_) | None => {}
            }
        }
    }
}

fn strings_in(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            into.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| strings_in(item, into)),
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Literals of `"x"` and `["x", "y"]`.
fn literals_in(value: &Value, into: &mut BTreeSet<String>) {
    if let Some(literal) = value.get("Value") {
        strings_in(literal, into);
    }
    if let Some(Value::Array(items)) = value.get("Set") {
        items.iter().for_each(|item| literals_in(item, into));
    }
}

/// The shortest text that a `like` pattern matches.
fn pattern_text(pattern: &Value) -> String {
    let Value::Array(elements) = pattern else { return String::new() };
    elements.iter().filter_map(|element| element.get("Literal").and_then(Value::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Mentions {
        Mentions::of(&Policy::parse(None, text).unwrap()).unwrap()
    }

    #[test]
    fn effects_are_found_on_either_side_and_in_sets() {
        let mentions = of(r#"forbid(principal, action, resource) when {
            context.effects.containsAny(["drop", "alter"]) || context.effects.contains("grant")
            || ["a"].containsAll(context.effects) || context.effects == ["b"] };"#);
        let words: Vec<&str> = mentions.effects.iter().map(String::as_str).collect();
        assert_eq!(words, ["a", "alter", "b", "drop", "grant"]);
    }

    #[test]
    fn keys_of_record_literals_count_as_attributes() {
        let mentions =
            of(r#"forbid(principal, action, resource) when { context.now == { hour: 1, weekday: 2 } };"#);
        assert!(mentions.has("now") && mentions.has("hour") && mentions.has("weekday"));
    }

    #[test]
    fn attributes_patterns_and_classes_are_found() {
        let mentions = of(r#"forbid(principal, action, resource) when {
            context has step && context.evidence.exe like "/tmp/*" && resource.class == "pii.email" };"#);
        assert!(mentions.has("step") && mentions.has("exe") && !mentions.has("now"));
        assert!(mentions.strings.contains("/tmp/"));
        assert!(mentions.classes.contains("pii.email"));
    }
}
