//! Events of Engage: they tell that a computed trait or an audience membership has changed, not that somebody came.

use std::borrow::Cow;

use super::json;

/// What an Engage event says. The raw JSON texts are parts of the event, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engage<'a> {
    /// `computation_key`: the name of the trait or audience, and of the member of `traits` that holds its value.
    pub key: Cow<'a, str>,
    /// The raw JSON of `traits[key]`; empty when it is not there.
    pub value: &'a str,
    /// The raw JSON object `traits`; `{}` when it is not there.
    pub traits: &'a str,
    /// The raw JSON object `context.personas`.
    pub personas: &'a str,
}

/// Recognises an event of Engage by its `context.personas`, given raw.
pub(super) fn recognise<'a>(personas: Option<&'a str>, traits: Option<&'a str>) -> Option<Engage<'a>> {
    let personas = personas.filter(|raw| json::is_object(raw))?;
    let [key] = json::look(Some(personas), ["computation_key"]);
    let key = json::non_blank_text(key)?;
    let [value] = json::look(traits, [key.as_ref()]);
    Some(Engage {
        value: value.unwrap_or(""),
        traits: traits.filter(|raw| json::is_object(raw)).unwrap_or("{}"),
        personas,
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERSONAS: &str = r#"{"computation_class":"audience","computation_key":"vip"}"#;

    #[test]
    fn the_value_is_the_trait_of_the_computation_key() {
        let traits = r#"{"email":"a@b.c", "vip" : "true" }"#;
        let engage = recognise(Some(PERSONAS), Some(traits)).unwrap();
        assert_eq!((engage.key.as_ref(), engage.value), ("vip", r#""true""#));
        assert_eq!((engage.traits, engage.personas), (traits, PERSONAS));
    }

    #[test]
    fn traits_that_are_no_object_hold_no_value() {
        for traits in [None, Some("null"), Some("[]"), Some("\"vip\"")] {
            let engage = recognise(Some(PERSONAS), traits).unwrap();
            assert_eq!((engage.value, engage.traits), ("", "{}"), "{traits:?}");
        }
    }

    #[test]
    fn without_a_computation_key_it_is_a_visit() {
        for personas in ["null", "[]", "{}", r#"{"computation_key":" "}"#, r#"{"computation_key":1}"#] {
            assert_eq!(recognise(Some(personas), Some("{}")), None, "{personas}");
        }
        assert_eq!(recognise(None, Some("{}")), None);
    }
}
