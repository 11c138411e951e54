//! The running instances, as commands reach them: by the addresses of their admin servers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::CommandError;
use crate::config::{Config, instance_problem};

/// An instance that does not answer within this time is told as one that does not.
const PATIENCE: Duration = Duration::from_secs(3);

/// One place to ask: as it was named, and what that name stands for.
#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    pub address: Result<SocketAddr, String>,
}

/// Asks admin servers.
#[derive(Clone)]
pub struct Asker(reqwest::Client);

impl Asker {
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new() -> Result<Asker, CommandError> {
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build();
        Ok(Asker(client.map_err(CommandError::told)?))
    }

    /// Status and body of the answer.
    ///
    /// # Errors
    /// Why there is none, in a few words.
    pub async fn get(&self, address: SocketAddr, path: &str) -> Result<(u16, String), String> {
        Asker::answer(self.0.get(format!("http://{address}{path}"))).await.map_err(|error| innermost(&error))
    }

    /// As `get`.
    ///
    /// # Errors
    /// As `get`; and that it may be done all the same, where the request had gone out.
    pub async fn put(&self, address: SocketAddr, path: &str, body: String) -> Result<(u16, String), String> {
        let asked = Asker::answer(self.0.put(format!("http://{address}{path}")).body(body)).await;
        asked.map_err(|error| match error.is_connect() {
            true => innermost(&error),
            false => format!(
                "{}: it may be changed, or be it yet; ask nat-destination status, or run it again",
                innermost(&error)
            ),
        })
    }

    async fn answer(request: reqwest::RequestBuilder) -> Result<(u16, String), reqwest::Error> {
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await?))
    }
}

/// The innermost cause says most ("connection refused").
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", PATIENCE.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// What `--instance` names.
pub fn named(text: &str) -> Result<String, String> {
    instance_problem(text).map_or_else(|| Ok(text.to_owned()), Err)
}

/// The admin server of the instance on this machine, by its own configuration.
///
/// # Errors
/// When the configuration does not say where that is.
pub fn of_this_machine(config: &Config) -> Result<String, CommandError> {
    let mut address = config.admin_listen;
    if address.port() == 0 {
        let told =
            "admin.listen has port 0, so that nobody can tell where the instance is: name it with --instance HOST:PORT";
        return Err(CommandError::Told(told.into()));
    }
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    Ok(address.to_string())
}

/// Every address that these names stand for, each once: a headless service's name, or one of compose's, has one for each
/// instance.
pub async fn places(names: &[String]) -> Vec<Place> {
    let mut found = Vec::new();
    for name in BTreeSet::from_iter(names) {
        found.push((name.clone(), tokio::net::lookup_host(name).await.map(Iterator::collect)));
    }
    each_once(found)
}

fn each_once(found: Vec<(String, std::io::Result<Vec<SocketAddr>>)>) -> Vec<Place> {
    let (mut places, mut known) = (Vec::new(), BTreeSet::new());
    for (name, addresses) in found {
        match addresses {
            Ok(addresses) => {
                let new = one_family(addresses).into_iter().filter(|address| known.insert(*address));
                places.extend(new.map(|address| Place { name: name.clone(), address: Ok(address) }));
            }
            Err(error) => places.push(Place { name, address: Err(format!("the name is not known: {error}")) }),
        }
    }
    places
}

/// Where a name has addresses of both families, they are the same machines': those of one are enough.
fn one_family(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let has_v4 = found.iter().any(SocketAddr::is_ipv4);
    found.into_iter().filter(|address| address.is_ipv4() || !has_v4).collect()
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.address {
            Ok(address) => write!(f, "{address}"),
            Err(_) => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_stands_for_each_of_its_addresses_once() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let of_all = ["10.0.0.8:9600", "10.0.0.7:9600", "[fd00::7]:9600", "10.0.0.7:9600"].map(address);
        let unknown = || Err(std::io::Error::other("failed to lookup address information"));
        let found = each_once(vec![
            ("nat-destination:9600".into(), Ok(of_all.into())),
            ("nat-destination-0:9600".into(), Ok(vec![of_all[1]])),
            ("six:9600".into(), Ok(vec![of_all[2]])),
            ("gone:9600".into(), unknown()),
        ]);
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["10.0.0.8:9600", "10.0.0.7:9600", "[fd00::7]:9600", "gone:9600"]);
        assert!(found[3].address.as_ref().expect_err("unknown").contains("not known: failed to lookup"));

        let found = places(&["127.0.0.1:9601".into(), "127.0.0.1:9600".into(), "127.0.0.1:9601".into()]).await;
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["127.0.0.1:9600", "127.0.0.1:9601"]);
    }

    #[test]
    fn a_place_without_a_port_is_refused_with_an_example() {
        assert!(named("nat-destination").expect_err("no port").contains("such as nat-destination:9600"));
        assert!(named("nat-destination:http").is_err() && named(":9600").is_err());
        assert_eq!(named("[::1]:9600").as_deref(), Ok("[::1]:9600"));
        for url in ["http://127.0.0.1:9600", "http://127.0.0.1:9600/status", "http://127.0.0.1"] {
            let told = named(url).expect_err("a URL");
            assert!(told.contains("must be a host and a port, without http://, such as"), "{told}");
        }
        assert!(named("status/127.0.0.1:9600").is_err());
    }
}
