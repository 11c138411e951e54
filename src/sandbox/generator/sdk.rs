//! Identify calls as the SDKs and the other producers of a Segment topic really send them.

use fastrand::Rng;
use jiff::Timestamp;

use super::json::{Dialect, Json};
use super::people::{Person, uuid};
use super::time;

const PAGES: [(&str, &str); 6] = [
    ("/", "Home"),
    ("/pricing", "Pricing"),
    ("/docs/getting-started", "Getting started – docs"),
    ("/blog/zoë-joins", "Zoë joins"),
    ("/app/settings", "Settings"),
    ("/signup", "Sign up"),
];
const PLANS: [&str; 4] = ["free", "starter", "pro", "enterprise"];

/// What one call is about, whoever sends it.
pub(super) struct Call<'p> {
    pub person: &'p Person,
    /// The address as written, the timestamp as a JSON token.
    pub email: String,
    pub time: String,
    pub at: Timestamp,
    pub message_id: String,
    path: &'static str,
    title: &'static str,
    plan: &'static str,
}

impl<'p> Call<'p> {
    pub fn new(person: &'p Person, at: Timestamp, rng: &mut Rng) -> Call<'p> {
        let (path, title) = PAGES[rng.usize(..PAGES.len())];
        Call {
            person,
            email: person.written_email(rng),
            time: time::written(at, rng),
            at,
            message_id: uuid(rng),
            path,
            title,
            plan: PLANS[rng.usize(..PLANS.len())],
        }
    }

    pub fn url(&self) -> String {
        format!("https://app.acme.example{}?utm_source=mail&n={}", self.path, self.person.number)
    }

    pub fn title(&self) -> &'static str {
        self.title
    }

    pub fn traits(&self, json: &mut Json) {
        json.text("email", &self.email).text("name", &self.person.name).text("plan", self.plan);
    }

    /// What Segment's servers add to a call on its way.
    pub fn server_tail(&self, json: &mut Json) {
        let later = |ms: i64| time::iso(Timestamp::from_millisecond(self.at.as_millisecond() + ms).unwrap_or(self.at));
        json.text("originalTimestamp", &time::iso(self.at))
            .text("sentAt", &later(420))
            .text("receivedAt", &later(633))
            .text("projectId", "mAxcVYy9QhNk")
            .raw("version", "2");
    }

    pub fn browser_context(&self, json: &mut Json) {
        let url = self.url();
        json.nested("context", |context| {
            context
                .nested("page", |page| {
                    page.text("path", self.path)
                        .text("referrer", "https://search.example/")
                        .text("search", "?utm_source=mail")
                        .text("title", self.title)
                        .text("url", &url);
                })
                .text("userAgent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
                .text("locale", "en-GB")
                .text("ip", "203.0.113.7")
                .nested("library", |library| {
                    library.text("name", "analytics.js").text("version", "npm:next-1.84.3");
                })
                .text("timezone", "Europe/Berlin");
        });
    }

    /// `traits`: what the mobile SDKs repeat of the person; an address in there may be an old one.
    pub fn mobile_context(&self, json: &mut Json, android: bool, traits: Option<&str>) {
        json.nested("context", |context| {
            context
                .nested("app", |app| {
                    app.text("name", "Acme").text("version", "4.2.1").text("build", "421");
                })
                // A `type` that is not the call's.
                .nested("device", |device| {
                    device
                        .text("id", &self.person.anonymous_id)
                        .text("manufacturer", if android { "Google" } else { "Apple" })
                        .text("model", if android { "Pixel 8" } else { "iPhone15,3" })
                        .text("type", if android { "android" } else { "ios" });
                })
                .nested("os", |os| {
                    os.text("name", if android { "Android" } else { "iOS" }).text("version", "17.1");
                })
                .nested("library", |library| {
                    library
                        .text("name", if android { "analytics-kotlin" } else { "analytics-swift" })
                        .text("version", "1.16.3");
                });
            if let Some(email) = traits {
                context.nested("traits", |traits| {
                    traits.text("userId", &self.person.user_id).text("email", email);
                });
            }
        });
    }

    pub fn library(json: &mut Json, name: &str, version: &str) {
        json.nested("context", |context| {
            context.nested("library", |library| {
                library.text("name", name).text("version", version);
            });
        });
    }
}

/// The identify call as one of the producers writes it, without `integrations`.
pub(super) fn identify(call: &Call, rng: &mut Rng) -> String {
    match rng.u32(..100) {
        0..25 => browser(call),
        25..45 => node(call),
        45..58 => python(call),
        58..70 => mobile(call, rng),
        70..78 => rudder(call, rng),
        78..83 => php(call),
        83..88 => http(call, rng),
        88..90 => event_tester(call, rng),
        _ => plain(call, rng),
    }
}

fn browser(call: &Call) -> String {
    Json::object(Dialect::Compact, |json| {
        json.raw("timestamp", &call.time).text("type", "identify").text("userId", &call.person.user_id);
        json.nested("traits", |traits| call.traits(traits));
        call.browser_context(json);
        json.text("messageId", &format!("ajs-next-{}", call.message_id))
            .text("anonymousId", &call.person.anonymous_id)
            .text("writeKey", "k3yThatIsNoSecret");
        call.server_tail(json);
    })
}

fn node(call: &Call) -> String {
    Json::object(Dialect::Compact, |json| {
        json.raw("timestamp", &call.time).text("type", "identify").text("userId", &call.person.user_id);
        json.nested("traits", |traits| call.traits(traits));
        Call::library(json, "@segment/analytics-node", "3.1.0");
        json.text("messageId", &format!("node-next-{}", call.message_id)).nested("_metadata", |metadata| {
            metadata.text("nodeVersion", "v20").text("jsRuntime", "node");
        });
        call.server_tail(json);
    })
}

fn python(call: &Call) -> String {
    Json::object(Dialect::Python, |json| {
        json.raw("anonymousId", "null").raw("timestamp", &call.time);
        Call::library(json, "analytics-python", "2.4.0");
        json.text("type", "identify").text("userId", &call.person.user_id).nested("traits", |traits| {
            call.traits(traits);
            traits.raw("company", "null").raw("seats", "12");
        });
        json.text("messageId", &call.message_id);
    })
}

fn mobile(call: &Call, rng: &mut Rng) -> String {
    let android = rng.bool();
    let repeated = match rng.u32(..3) {
        0 => format!("old.{}", call.person.email),
        _ => call.email.clone(),
    };
    Json::object(Dialect::Compact, |json| {
        json.text("anonymousId", &call.person.anonymous_id).text("channel", "mobile");
        call.mobile_context(json, android, Some(&repeated));
        json.text("messageId", &call.message_id)
            .raw("timestamp", &call.time)
            .nested("traits", |traits| {
                call.traits(traits);
                traits.text("userId", &call.person.user_id);
            })
            .text("type", "identify")
            .text("userId", &call.person.user_id);
        call.server_tail(json);
    })
}

/// RudderStack: the traits are in the context, and `event` sometimes repeats the type.
fn rudder(call: &Call, rng: &mut Rng) -> String {
    Json::object(Dialect::Compact, |json| {
        json.text("channel", "web").nested("context", |context| {
            context
                .nested("traits", |traits| call.traits(traits))
                .nested("library", |library| {
                    library.text("name", "RudderLabs JavaScript SDK").text("version", "3.7.1");
                })
                .nested("screen", |screen| {
                    screen.raw("density", "2").raw("width", "1512").raw("height", "982");
                });
        });
        json.text("type", "identify").text("messageId", &call.message_id);
        if rng.u32(..4) == 0 {
            json.text("event", "identify");
        }
        json.text("originalTimestamp", &time::iso(call.at))
            .raw("timestamp", &call.time)
            .text("anonymousId", &call.person.anonymous_id)
            .text("userId", &call.person.user_id)
            .text("rudderId", &call.person.anonymous_id);
    })
}

fn php(call: &Call) -> String {
    let url = call.url();
    Json::object(Dialect::Php, |json| {
        json.text("userId", &call.person.user_id).nested("traits", |traits| call.traits(traits));
        json.nested("context", |context| {
            context
                .nested("library", |library| {
                    library.text("name", "analytics-php").text("version", "3.8.0").text("consumer", "Socket");
                })
                .nested("page", |page| {
                    page.text("url", &url);
                });
        });
        json.raw("timestamp", &call.time).text("messageId", &call.message_id).text("type", "identify");
    })
}

/// Someone's own client of the HTTP API. "The casing will vary by customer."
fn http(call: &Call, rng: &mut Rng) -> String {
    let (kind, email) = match rng.u32(..4) {
        0 => ("Identify", "email"),
        1 => ("identify", "Email"),
        _ => ("identify", "email"),
    };
    Json::object(Dialect::Compact, |json| {
        json.text("type", kind).text("userId", &call.person.user_id).raw("timestamp", &call.time);
        json.nested("traits", |traits| {
            traits.text(email, &call.email).text("firstName", &call.person.name).raw("logins", "9007199254740993");
        });
        json.text("messageId", &format!("api-{}", call.message_id));
    })
}

/// Segment's Event Tester puts a placeholder beside the real address.
fn event_tester(call: &Call, rng: &mut Rng) -> String {
    let suffix: String = (0..6).map(|_| rng.lowercase()).collect();
    Json::object(Dialect::Compact, |json| {
        json.text("messageId", &format!("segment-test-message-{suffix}"))
            .raw("timestamp", &call.time)
            .text("type", "identify")
            .text("email", "test@example.org")
            .text("projectId", "mAxcVYy9QhNk")
            .nested("traits", |traits| call.traits(traits))
            .text("userId", &format!("test-user-{suffix}"));
    })
}

/// The formats printed in the destination's specification: recommended, example 1, example 2.
pub(super) fn plain(call: &Call, rng: &mut Rng) -> String {
    let url = call.url();
    let form = rng.u32(..3);
    Json::object(Dialect::Compact, |json| {
        if form == 0 {
            json.text("type", "identify").raw("timestamp", &call.time);
            json.nested("traits", |traits| {
                traits.text("email", &call.email);
            });
            json.nested("page", |page| {
                page.text("url", &url);
            });
            return;
        }
        json.raw("timestamp", &call.time).text("type", "identify").text("email", &call.email);
        if form == 2 {
            json.text("event", "User logged in");
        }
    })
}
