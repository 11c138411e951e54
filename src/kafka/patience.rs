//! Patience with brokers: what they do not answer while a leader or a coordinator moves, or while all of them are away, they
//! answer later. For the async questions of starts and waits; the threads that read (restore, bookmark, ranges) have a loop
//! of their own each, since they look meanwhile whether anybody still wants the answer.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode::{GroupAuthorizationFailed, TopicAuthorizationFailed};
use tokio::time::{Instant, sleep};

use super::KafkaProblem;

const ASK_EVERY: Duration = Duration::from_millis(250);

/// Asks again until there is an answer, or a problem that time does not solve; not after `deadline`, where there is one.
///
/// # Errors
/// The last problem.
pub async fn patiently<T, F: Future<Output = Result<T, KafkaProblem>>>(
    deadline: Option<Instant>,
    ask: impl Fn() -> F,
) -> Result<T, KafkaProblem> {
    while_it(KafkaProblem::is_passing, deadline, ask).await
}

/// As `patiently`, of a topic of ours that a broker has told of: one that does not know it yet will in a moment.
///
/// # Errors
/// The last problem.
pub async fn until_known<T, F: Future<Output = Result<T, KafkaProblem>>>(
    deadline: Instant,
    ask: impl Fn() -> F,
) -> Result<T, KafkaProblem> {
    let passes = |problem: &KafkaProblem| problem.is_passing() || matches!(problem, KafkaProblem::Missing { .. });
    while_it(passes, Some(deadline), ask).await
}

async fn while_it<T, F: Future<Output = Result<T, KafkaProblem>>>(
    passes: impl Fn(&KafkaProblem) -> bool,
    deadline: Option<Instant>,
    ask: impl Fn() -> F,
) -> Result<T, KafkaProblem> {
    loop {
        match ask().await {
            Err(problem) if passes(&problem) && deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                tracing::debug!(%problem, "asking again");
                sleep(ASK_EVERY).await;
            }
            answer => return answer,
        }
    }
}

impl KafkaProblem {
    /// Whether asking again may help. A topic that is not there is told otherwise (`Topic`, `Missing`): where a broker does not
    /// know one that is, it has just come back.
    pub fn is_passing(&self) -> bool {
        match self {
            KafkaProblem::Unreachable { .. } | KafkaProblem::Leaderless { .. } => true,
            KafkaProblem::Failed { error, .. } => {
                !matches!(error.rdkafka_error_code(), Some(TopicAuthorizationFailed | GroupAuthorizationFailed))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};
    use std::cell::RefCell;

    fn failed(code: RDKafkaErrorCode) -> KafkaProblem {
        KafkaProblem::Failed { what: "asking".into(), error: KafkaError::MetadataFetch(code) }
    }

    #[tokio::test(start_paused = true)]
    async fn it_asks_until_there_is_an_answer_or_a_problem_that_stays_or_the_time_is_up() {
        let ask_of = |answers: Vec<Result<u32, KafkaProblem>>| {
            let answers = RefCell::new(answers.into_iter());
            move || {
                let next = answers.borrow_mut().next();
                async { next.unwrap_or_else(|| Err(failed(RDKafkaErrorCode::NotCoordinator))) }
            }
        };
        let moves = || Err(failed(RDKafkaErrorCode::LeaderNotAvailable));
        assert_eq!(patiently(None, ask_of(vec![moves(), moves(), Ok(7)])).await.expect("an answer"), 7);
        let denied = || Err(failed(TopicAuthorizationFailed));
        assert!(patiently(None, ask_of(vec![moves(), denied(), Ok(7)])).await.is_err(), "asked no more");
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(patiently(Some(deadline), ask_of(Vec::new())).await.is_err());
        assert!(Instant::now() >= deadline, "not given up before");
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_that_one_broker_does_not_know_yet_is_asked_for_again() {
        let missing = || Err(KafkaProblem::Missing { topic: "n.layout".into() });
        let asked = RefCell::new(0);
        let known_at = |time| {
            asked.replace(0);
            let asked = &asked;
            move || {
                let answer = if asked.replace_with(|n| *n + 1) == time { Ok(7) } else { missing() };
                async { answer }
            }
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        assert_eq!(until_known(deadline, known_at(3)).await.expect("an answer"), 7);
        assert!(matches!(patiently(Some(deadline), known_at(3)).await, Err(KafkaProblem::Missing { .. })));
        assert!(matches!(until_known(deadline, known_at(1000)).await, Err(KafkaProblem::Missing { .. })));
        assert!(Instant::now() >= deadline, "not given up before");
    }
}
