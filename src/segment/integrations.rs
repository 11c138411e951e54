//! Whether the customer has switched Nat off for an event, with Segment's `integrations` object.
//!
//! Segment's keys are case-sensitive here (`Nat`, and `All` or `all`), and values other than those named have
//! no effect: an unclear wish must not lose an event.

use super::json;

/// Whether the raw `integrations` say that the event is not for Nat.
pub(super) fn switched_off(integrations: Option<&str>) -> bool {
    let [nat, all_upper, all_lower] = json::look_exactly(integrations, ["Nat", "All", "all"]);
    let chosen = nat.is_some_and(|raw| raw == "true" || json::is_object(raw));
    let all_off = [all_upper, all_lower].contains(&Some("false"));
    nat == Some("false") || (all_off && !chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nat_is_switched_off_by_name_or_with_all_others() {
        for off in [
            r#"{"Nat":false}"#,
            r#"{"All":true,"Nat":false}"#,
            r#"{"All":false}"#,
            r#"{"all": false}"#,
            r#"{"All":false,"Nat":null}"#,
            r#"{"All":false,"Nat":"true"}"#,
            r#"{"All":false,"nat":true}"#,
            r#"{"Nat":true,"Nat":false}"#,
        ] {
            assert!(switched_off(Some(off)), "{off}");
        }
    }

    #[test]
    fn every_other_wish_leaves_it_on() {
        for on in [
            "null",
            "[]",
            "false",
            "{}",
            r#"{"All":false,"Nat":true}"#,
            r#"{"all":false,"Nat":{}}"#,
            r#"{"All":"false"}"#,
            r#"{"All":null}"#,
            r#"{"Nat":null}"#,
            r#"{"Nat":"false"}"#,
            r#"{"nat":false}"#,
            r#"{"NAT":false,"ALL":false}"#,
            r#"{"Salesforce":false}"#,
        ] {
            assert!(!switched_off(Some(on)), "{on}");
        }
        assert!(!switched_off(None));
    }
}
