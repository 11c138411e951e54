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
    loop {
        match ask().await {
            Err(problem) if problem.is_passing() && deadline.is_none_or(|deadline| Instant::now() < deadline) => {
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
}
