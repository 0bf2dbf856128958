//! Header mutations.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValueOption, header_value_option::HeaderAppendAction,
};

use super::Invalid;
use super::error::At;
use super::table::Session;
use crate::logic::format::Format;
use crate::model::{AppendAction, HeaderAdd, HeaderMutations, HeaderValue};

/// Additions and removals of one level; `add` and `remove` name the fields.
pub(super) fn mutations(
    add: (&str, &[HeaderValueOption]),
    remove: (&str, &[String]),
    session: &Session<'_>,
) -> Result<HeaderMutations, Invalid> {
    let removals = remove.1.iter().enumerate();
    let remove = removals
        .map(|(i, name)| {
            check_name(name, "removed").at_index(remove.0, i)?;
            Ok(session.name(&name.to_ascii_lowercase()))
        })
        .collect::<Result<Vec<Arc<str>>, Invalid>>()?;
    let additions = add.1.iter().enumerate();
    let add = additions
        .map(|(i, option)| header_add(option, session).at_index(add.0, i))
        .collect::<Result<_, _>>()?;
    Ok(HeaderMutations { remove: session.names(remove), add })
}

/// The mutations of a route; none if there is nothing to do.
pub(super) fn if_any(mutations: HeaderMutations) -> Option<Box<HeaderMutations>> {
    (!mutations.is_empty()).then(|| Box::new(mutations))
}

fn header_add(option: &HeaderValueOption, session: &Session<'_>) -> Result<HeaderAdd, Invalid> {
    let header =
        option.header.as_ref().ok_or_else(|| Invalid::new("value is required").at("header"))?;
    check_name(&header.key, "modified").at("header.key")?;
    let value = if header.value.is_empty() && !header.raw_value.is_empty() {
        HeaderValue::Plain(header.raw_value.as_slice().into())
    } else {
        header_value(&header.value).at("header.value")?
    };
    let action = match option.append {
        Some(_) if option.append_action != 0 => {
            return Err(Invalid::new("Both append and append_action are set and it's not allowed"));
        }
        Some(append) if !append.value => AppendAction::OverwriteIfExistsOrAdd,
        Some(_) => AppendAction::AppendIfExistsOrAdd,
        None => match HeaderAppendAction::try_from(option.append_action) {
            Ok(HeaderAppendAction::AppendIfExistsOrAdd) => AppendAction::AppendIfExistsOrAdd,
            Ok(HeaderAppendAction::AddIfAbsent) => AppendAction::AddIfAbsent,
            Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => AppendAction::OverwriteIfExistsOrAdd,
            Ok(HeaderAppendAction::OverwriteIfExists) => AppendAction::OverwriteIfExists,
            Err(_) => return Err(Invalid::unsupported("append_action")),
        },
    };
    let name = session.name(&header.key.to_ascii_lowercase());
    Ok(HeaderAdd { name, value, action, keep_empty: option.keep_empty_value })
}

fn header_value(text: &str) -> Result<HeaderValue, Invalid> {
    if text.bytes().any(|b| matches!(b, 0 | b'\n' | b'\r')) {
        return Err(Invalid::new("value does not match regex pattern \"^[^\\x00\\n\\r]*$\""));
    }
    if !text.contains('%') {
        return Ok(HeaderValue::Plain(text.into()));
    }
    let plain = text.replace("%%", "");
    if !plain.contains('%') {
        return Ok(HeaderValue::Plain(text.replace("%%", "%").as_str().into()));
    }
    let format = Format::parse(text).map_err(|e| Invalid::new(e.to_string()))?;
    Ok(HeaderValue::Format(Box::new(format)))
}

fn check_name(name: &str, verb: &str) -> Result<(), Invalid> {
    if name.is_empty() {
        return Err(Invalid::new("value length must be at least 1 characters"));
    }
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(Invalid::new(format!(":-prefixed or host headers may not be {verb}")));
    }
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.bytes().all(token) {
        return Err(Invalid::new(format!("'{}' is not a header name", name.escape_debug())));
    }
    Ok(())
}
