//! Start-up parameters: what of an agent's goes on to the server.
//!
//! They are an input channel: `options=-c …` sets anything, `replication` opens another protocol, and `client_encoding` or
//! `standard_conforming_strings` change how the server reads statements. So there is an allow-list, and the encoding is fixed.

use super::wire::Startup;

/// A parameter that may not be set at start-up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("start-up parameter `{0}` is not allowed")]
pub(crate) struct ParameterError(pub String);

/// Settings an agent may choose at start-up, besides user and database. None changes how statements are read or who runs them.
const ALLOWED: [&str; 21] = [
    "application_name",
    "bytea_output",
    "datestyle",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "geqo",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "lc_messages",
    "lock_timeout",
    "search_path",
    "statement_timeout",
    "tcp_keepalives_idle",
    "timezone",
    "transaction_timeout",
    "work_mem",
    "xmlbinary",
];

/// What an agent asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// The user name it gave; recorded, never used.
    pub(crate) user: String,
    /// The database; the server's default for `user` if it named none.
    pub(crate) database: String,
    /// Settings for the server, with the fixed ones.
    pub(crate) settings: Vec<(String, String)>,
    /// `_pq_.` options, which are declined by name.
    pub(crate) declined: Vec<String>,
}

impl Wishes {
    /// Checks a start-up message. `backend_user` is the account on the resource.
    ///
    /// # Errors
    /// Names the first parameter that is not allowed.
    pub(crate) fn read(startup: &Startup, backend_user: &str) -> Result<Self, ParameterError> {
        let mut wishes = Self {
            user: startup.parameter("user").unwrap_or_default().to_owned(),
            database: String::new(),
            settings: Vec::new(),
            declined: Vec::new(),
        };
        for (name, value) in &startup.parameters {
            match name.as_str() {
                "user" | "client_encoding" => {}
                "database" => wishes.database.clone_from(value),
                "replication" if is_false(value) => {}
                "options" => wishes.options(value)?,
                other if other.starts_with("_pq_.") => wishes.declined.push(other.to_owned()),
                _ => wishes.set(name, value)?,
            }
        }
        // Libpq's rule: an empty database means the user's name. It is made explicit here, so that what is opened is what is
        // recorded and never the server's own default for the account behind it.
        if wishes.database.is_empty() {
            wishes.database =
                if wishes.user.is_empty() { backend_user.to_owned() } else { wishes.user.clone() };
        }
        wishes.settings.push(("client_encoding".to_owned(), "UTF8".to_owned()));
        wishes.settings.push(("standard_conforming_strings".to_owned(), "on".to_owned()));
        Ok(wishes)
    }

    /// Database and search path in one text: what decides which objects a statement's names mean.
    pub(crate) fn scope(&self) -> String {
        let path =
            self.settings.iter().filter(|(name, _)| name == "search_path").map(|(_, value)| value.as_str());
        format!("{}\0{}", self.database, path.collect::<Vec<_>>().join("\0"))
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), ParameterError> {
        let lower = name.to_ascii_lowercase();
        if lower == "client_encoding" || (lower == "standard_conforming_strings" && value == "on") {
            return Ok(());
        }
        if !ALLOWED.contains(&lower.as_str()) && !lower.starts_with("enable_") {
            return Err(ParameterError(name.to_owned()));
        }
        self.settings.push((lower, value.to_owned()));
        Ok(())
    }

    /// The `options` parameter: `-c name=value`, `-cname=value` and `--name=value`, separated by spaces; a backslash escapes.
    fn options(&mut self, text: &str) -> Result<(), ParameterError> {
        let refuse = || ParameterError(format!("options={text}"));
        let mut words = split_options(text).into_iter();
        while let Some(word) = words.next() {
            let setting = match word.strip_prefix("--") {
                Some(long) => long.to_owned(),
                None => match word.strip_prefix("-c") {
                    Some("") => words.next().ok_or_else(refuse)?,
                    Some(short) => short.to_owned(),
                    None => return Err(refuse()),
                },
            };
            let (name, value) = setting.split_once('=').ok_or_else(refuse)?;
            self.set(&name.replace('-', "_"), value)?;
        }
        Ok(())
    }
}

fn is_false(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "" | "false" | "off" | "no" | "0")
}

fn split_options(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => word.extend(letters.next()),
            space if space.is_ascii_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<Wishes, ParameterError> {
        let parameters =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Wishes::read(&Startup { minor: 0, parameters }, "svc")
    }

    #[test]
    fn ordinary_drivers_pass_and_the_encoding_is_fixed() {
        let wishes = read(&[
            ("user", "me"),
            ("database", "shop"),
            ("client_encoding", "LATIN1"),
            ("DateStyle", "ISO"),
            ("options", "-c search_path=a\\ b -cstatement_timeout=5 --lock-timeout=1"),
        ])
        .unwrap();
        assert_eq!(wishes.database, "shop");
        let has = |name: &str, value: &str| wishes.settings.contains(&(name.to_owned(), value.to_owned()));
        assert!(has("client_encoding", "UTF8") && !has("client_encoding", "LATIN1"));
        assert!(has("search_path", "a b") && has("statement_timeout", "5") && has("lock_timeout", "1"));
    }

    #[test]
    fn parameters_that_change_reading_or_rights_are_refused() {
        for (name, value) in [
            ("replication", "database"),
            ("replication", "true"),
            ("role", "postgres"),
            ("session_authorization", "postgres"),
            ("standard_conforming_strings", "off"),
            ("options", "-c standard_conforming_strings=off"),
            ("options", "-c role=postgres"),
            ("options", "-o x"),
            ("options", "-c"),
            ("local_preload_libraries", "x"),
        ] {
            assert!(read(&[("user", "me"), (name, value)]).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn an_empty_database_means_a_name_and_never_nothing() {
        assert_eq!(read(&[("user", "shop")]).unwrap().database, "shop");
        assert_eq!(read(&[]).unwrap().database, "svc");
    }
}
