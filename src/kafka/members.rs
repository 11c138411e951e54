//! Who is in a consumer group: whether any instance runs, and where.

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaProblem;
use super::bookmark::Bookmark;
use super::topics::{patient_ends, with_client};
use crate::config::Config;

/// The members of a group, as `client id at host`; empty if nobody is in it. Those of the new protocol the broker does not
/// list, but it lets nobody from outside commit while there are any. To find out, a place in the layout topic is committed,
/// which no member takes: what the group has settled is not touched, whoever joins or leaves meanwhile.
///
/// # Errors
/// When the brokers do not answer.
pub async fn members(config: &Config, group: &str) -> Result<Vec<String>, KafkaProblem> {
    let listed = listed_members(config, group).await?.unwrap_or_default();
    if !listed.is_empty() {
        return Ok(listed);
    }
    let ends = patient_ends(config, vec![(config.topics.layout.clone(), 0)]).await?;
    let places = ends.into_iter().map(|(place, (_, end))| (place, end)).collect();
    let (to, name) = (config.clone(), group.to_owned());
    let asked = tokio::task::spawn_blocking(move || Bookmark::new(&to, &name)?.save(&places));
    let asked = asked.await.unwrap_or_else(|error| {
        Err(KafkaProblem::Stopped(format!("asking who is in group {group:?} was cut short: {error}")))
    });
    match asked {
        Ok(()) => Ok(Vec::new()),
        Err(KafkaProblem::Failed { error, .. }) if is_a_members_alone(&error) => {
            Ok(vec!["Kafka does not tell which".into()])
        }
        Err(problem) => Err(problem),
    }
}

/// Those of the classic protocol; `None`: the group is of the new one, and whether anybody is in it is not told.
///
/// # Errors
/// When the brokers do not answer.
pub async fn listed_members(config: &Config, group: &str) -> Result<Option<Vec<String>>, KafkaProblem> {
    let timeout = config.kafka.timeout;
    let asked = with_client(config, group.to_owned(), move |client, group| {
        let found = client.fetch_group_list(Some(&group), timeout)?;
        // So a group of the new protocol looks to those who ask by the classic one, with members and without.
        if found.groups().iter().any(|group| group.state() == "Dead") {
            return Ok(None);
        }
        let members = found.groups().iter().flat_map(|group| group.members());
        let members = members.map(|m| format!("{} at {}", m.client_id(), m.client_host().trim_start_matches('/')));
        Ok(Some(members.collect()))
    });
    asked.await
}

/// Whether a commit was refused since the group has members.
pub(super) fn is_a_members_alone(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{IllegalGeneration, RebalanceInProgress, StaleMemberEpoch, UnknownMemberId};
    let code = error.rdkafka_error_code();
    matches!(code, Some(UnknownMemberId | IllegalGeneration | RebalanceInProgress | StaleMemberEpoch))
}
