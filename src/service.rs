//! The service: both stages, the admin server and the lag watch, started together and ended together. `run` and `demo`
//! are this, with different surroundings.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::{self, AdminError, Served};
use crate::config::Config;
use crate::kafka::{self, KafkaProblem, patiently};
use crate::metrics::Metrics;
use crate::nat::{ClientError, NatClient, watch_key};
use crate::stage::{StageStatus, Stop, Stopper, Whereabouts, stopper};
use crate::suppress::{SuppressProblem, Suppressed};
use crate::watchdog::{self, Hangs, Watched};
use crate::{deliver, ingest, lag};

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Kafka(#[from] KafkaProblem),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Suppress(#[from] SuppressProblem),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Hangs(#[from] Hangs),
    #[error("{0}")]
    Internal(String),
}

/// A service that runs.
pub struct Service {
    pub metrics: Arc<Metrics>,
    pub admin: SocketAddr,
    pub ingest: watch::Receiver<StageStatus>,
    pub deliver: watch::Receiver<StageStatus>,
    config: Arc<Config>,
    stopper: Stopper,
    ingest_task: JoinHandle<Result<(), KafkaProblem>>,
    deliver_task: JoinHandle<Result<(), KafkaProblem>>,
    watchdog: JoinHandle<Hangs>,
    /// What went wrong with a source topic, or the queue.
    lag_watch: mpsc::Receiver<lag::Changed>,
}

impl Service {
    /// Verifies what has to be there (with `verify_topics`; the embedded broker cannot tell), and starts.
    ///
    /// # Errors
    /// What is wrong, naming the setting.
    pub async fn start(mut config: Config, verify_topics: bool) -> Result<Service, ServiceError> {
        let client = NatClient::new(config.nat.clone(), config.concurrency)?;
        let metrics = Metrics::new().map_err(|error| ServiceError::Internal(error.to_string()))?;
        let suppressed = Suppressed::start(config.suppress_file.as_deref(), &metrics)?;
        let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), librdkafka.as_str()]).set(1);
        let (ingest_sender, ingest) = watch::channel(StageStatus::starting());
        let (deliver_sender, deliver) = watch::channel(StageStatus::starting());
        let (rate_limit_sender, rate_limit) = watch::channel(config.rate_limit);
        let served = Served::new(&config, Arc::clone(&metrics), ingest.clone(), deliver.clone(), rate_limit_sender);
        let admin = admin::serve(config.admin_listen, served).await?;
        let mut partitions = None;
        if verify_topics {
            let topics = kafka::verify_source(&config).await?;
            tracing::info!(?topics, "source topics");
            let verified = kafka::verify_or_create(&config, config.topics.create).await?;
            for report in verified.topics {
                let what = if report.created { "created" } else { "there" };
                tracing::info!(topic = report.topic, partitions = report.partitions, "topic {what}");
            }
            partitions = Some(verified.partitions);
            config.topics.batch_bytes = verified.batch_bytes.unwrap_or(config.topics.batch_bytes);
            tracing::debug!(bytes = config.topics.batch_bytes, "no batch of several records is larger");
        }
        let config = Arc::new(config);
        let (stopper, stop) = stopper();
        let watched = [("ingest", &ingest), ("deliver", &deliver)].map(|(stage, status)| Watched {
            stage,
            status: status.clone(),
            whereabouts: Arc::default(),
        });
        let [at_ingest, at_deliver] = [0, 1].map(|stage| Arc::clone(&watched[stage].whereabouts));
        let (to, with) = (Arc::clone(&config), Arc::clone(&metrics));
        let ingest_task = spawn_ingest(to, with, ingest_sender, stop.clone(), at_ingest, suppressed.clone());
        let (to, with) = (Arc::clone(&config), Arc::clone(&metrics));
        let told = Arc::clone(&metrics);
        watch_key(Arc::clone(client.key()), move |is_wrong| told.api_key_file_wrong.set(is_wrong.into()));
        let live = deliver::Live { rate_limit, suppressed };
        let delivering = deliver::run(to, with, client, deliver_sender, stop.clone(), at_deliver, live);
        let deliver_task = tokio::spawn(delivering);
        let watchdog = tokio::spawn(watchdog::watch(watched.into(), config.watchdog_timeout));
        let stages = vec![ingest.clone(), deliver.clone()];
        tokio::spawn(lag::watch_retention(Arc::clone(&config), Arc::clone(&metrics)));
        let lag_watch = lag::watch(Arc::clone(&config), Arc::clone(&metrics), stages, partitions, stop);
        Ok(Service { metrics, admin, ingest, deliver, config, stopper, ingest_task, deliver_task, watchdog, lag_watch })
    }

    /// Tells both stages to end within the configured time.
    pub fn stop(&self) {
        self.stopper.stop(Instant::now() + self.config.shutdown_timeout);
    }

    /// Returns when both stages have ended. If one fails, the other is stopped too. One that hangs is not waited for.
    ///
    /// # Errors
    /// What the one that failed first says.
    pub async fn ended(&mut self) -> Result<(), ServiceError> {
        let first = tokio::select! {
            ended = &mut self.ingest_task => Err(ended),
            ended = &mut self.deliver_task => Ok(ended),
            Ok(hangs) = &mut self.watchdog => return Err(hangs.into()),
            Some(lag::Changed { problem, not_in_topic }) = self.lag_watch.recv() => {
                // What is settled is stored by the end of the stages, but of what has changed; nothing more is taken.
                self.stopper.stop_since(Instant::now() + self.config.shutdown_timeout, not_in_topic);
                let _ = tokio::join!(&mut self.ingest_task, &mut self.deliver_task);
                return Err(problem.into());
            }
        };
        self.stop();
        let (first, second) = match first {
            Err(ended) => (ended, (&mut self.deliver_task).await),
            Ok(ended) => (ended, (&mut self.ingest_task).await),
        };
        for ended in [first, second] {
            ended.map_err(|error| ServiceError::Internal(format!("a stage crashed: {error}")))??;
        }
        Ok(())
    }

    /// Returns once every record that is in the source topics now is settled, whichever instance settles it. While the
    /// brokers are away it waits, as the stages do.
    ///
    /// # Errors
    /// When a topic has gone or may not be looked at.
    pub async fn caught_up(config: &Config) -> Result<(), KafkaProblem> {
        let source = patiently(None, || kafka::source_partitions(config)).await?;
        let partitions =
            source.into_iter().flat_map(|(topic, count)| (0..count).map(move |p| (topic.clone(), p as i32)));
        wait_until_committed(config, &config.source.group, partitions.collect()).await?;
        // Everything that was there has been handed on by now: what the queue holds at this moment includes it.
        let queue = patiently(None, || kafka::partitions(config, &config.topics.queue)).await?;
        wait_until_committed(config, &config.topics.deliver_group, queue).await
    }
}

/// How often committed offsets are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

async fn wait_until_committed(
    config: &Config,
    group: &str,
    partitions: Vec<kafka::TopicPartition>,
) -> Result<(), KafkaProblem> {
    let first = patiently(None, || kafka::committed(config, group, partitions.clone())).await?;
    let ends = patiently(None, || kafka::ends(config, partitions.clone())).await?;
    let not_in_topic = patiently(None, || kafka::not_in_topic(config, group, partitions.clone())).await?;
    for (place, (_, end)) in &ends {
        let committed = first.get(place).copied().unwrap_or(0);
        if committed > *end || not_in_topic.contains(place) {
            let (topic, partition) = place.clone();
            let problem = format!(
                "the group {group} has committed offset {committed} of partition {partition}, which is not in it: the topic \
                 was made anew, or cut. Set the offset with kafka-consumer-groups.sh --reset-offsets"
            );
            return Err(KafkaProblem::Topic { topic, problem });
        }
    }
    let mut last = Vec::new();
    loop {
        let committed = patiently(None, || kafka::committed(config, group, partitions.clone())).await?;
        let offset = |place| committed.get(place).copied().unwrap_or(0);
        // What holds nothing is settled whatever its group has committed.
        let behind = ends.iter().filter(|(place, (low, end))| low < end && offset(place) < *end);
        let behind: Vec<_> = behind.map(|(place, _)| (place.clone(), offset(place))).collect();
        if behind.is_empty() {
            return Ok(());
        }
        // Where nothing moves there may be nothing left to read before the end.
        if behind == last && patiently(None, || kafka::with_records_after(config, behind.clone())).await?.is_empty() {
            return Ok(());
        }
        tracing::debug!(group, behind = behind.len(), "partitions not settled yet");
        last = behind;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Ingest is synchronous: a thread of its own, whose end is a task's.
fn spawn_ingest(
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    status: watch::Sender<StageStatus>,
    stop: Stop,
    whereabouts: Arc<Whereabouts>,
    suppressed: Suppressed,
) -> JoinHandle<Result<(), KafkaProblem>> {
    tokio::task::spawn_blocking(move || ingest::run(&config, metrics, &status, &stop, &whereabouts, suppressed))
}
