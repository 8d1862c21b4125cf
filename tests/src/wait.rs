//! Waiting for something to become true, with a limit.
//!
//! Tests never sleep for a guessed time: they ask again until the answer is there or the limit is over.
//! The limit is generous, because two cores run many tests at once; a reached limit is a failure that says what
//! was waited for.

use std::time::Duration;

use anyhow::{Result, bail};
use chaperone::clock::Clock;

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until there is an answer; an error from the question ends the wait at once.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let clock = Clock::system();
    let start = clock.instant();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if clock.instant().duration_since(start) > limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::until;

    #[test]
    fn a_wait_ends_with_the_answer() {
        let mut left = 3;
        let answer = until("a countdown", Duration::from_secs(5), || {
            left -= 1;
            Ok((left == 0).then_some("done"))
        });
        assert_eq!(answer.unwrap(), "done");
    }

    #[test]
    fn a_wait_without_answer_fails_and_says_for_what() {
        let answer = until::<()>("the moon", Duration::ZERO, || Ok(None));
        assert!(answer.unwrap_err().to_string().contains("the moon"));
    }
}
