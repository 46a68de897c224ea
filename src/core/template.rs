//! Templates of a runtime definition: `{name}` in strings, from a closed list of variables, and two
//! computed forms in structured values.
//!
//! A structured value is written as YAML and rendered as JSON or TOML, so no template ever quotes by
//! hand. `{"$sha256": V}` stands for `sha256:<hex>` of V as compact JSON with sorted keys.

use super::record::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The variables a template may name, with what they stand for.
pub const VARIABLES: &[(&str, &str)] = &[
    ("iapeer", "absolute path of the iapeer program"),
    ("iapeer_sh", "the same, quoted for a shell: for hook commands, which programs run through one"),
    ("root", "the state root"),
    ("sock_dir", "the directory of the sockets"),
    ("identity", "<runtime>-<personality>"),
    ("personality", "the peer's name"),
    ("cwd", "the peer's folder"),
    ("launch_dir", "a folder of this launch, for the files that the definition prepares"),
    ("session_id", "the agent program's session id: a new one when fresh, the recorded one on resume"),
    ("system_prompt", "identity block, doctrine and roster"),
];

pub type Vars = BTreeMap<&'static str, String>;

/// Checks every `{name}` of a template against the closed list.
pub fn check(template: &str) -> Result<(), String> {
    expand_with(template, |name| VARIABLES.iter().any(|(v, _)| *v == name).then(String::new)).map(drop)
}

pub fn expand(template: &str, vars: &Vars) -> Result<String, String> {
    expand_with(template, |name| vars.get(name).cloned())
}

fn expand_with(template: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find(['{', '}']) {
        out += &rest[..open];
        let from = &rest[open..];
        if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
            out.push_str(&from[..1]);
            rest = after;
            continue;
        }
        let close = from.find('}').filter(|_| from.starts_with('{'));
        let Some(close) = close else {
            return Err(format!("stray brace in {template:?}; write {{{{ or }}}} for a literal one"));
        };
        let name = &from[1..close];
        out += &lookup(name).ok_or_else(|| {
            let known: Vec<&str> = VARIABLES.iter().map(|(v, _)| *v).collect();
            format!("unknown variable {{{name}}}; known: {}", known.join(", "))
        })?;
        rest = &from[close + 1..];
    }
    Ok(out + rest)
}

/// Expands every string of a structured value, and the computed forms.
pub fn expand_value(value: &Value, expand: &impl Fn(&str) -> Result<String, String>) -> Result<Value, String> {
    Ok(match value {
        Value::String(s) => Value::String(expand(s)?),
        Value::Array(items) => Value::Array(items.iter().map(|v| expand_value(v, expand)).collect::<Result<_, _>>()?),
        Value::Object(map) => {
            if let (1, Some(inner)) = (map.len(), map.get("$sha256")) {
                let canonical = canonical_json(&expand_value(inner, expand)?);
                return Ok(Value::String(format!("sha256:{}", hex(&Sha256::digest(canonical.as_bytes())))));
            }
            let pairs = map.iter().map(|(k, v)| Ok((expand(k)?, expand_value(v, expand)?)));
            Value::Object(pairs.collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

/// Compact JSON with sorted keys, whatever map type serde_json was built with.
fn canonical_json(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let inner: Vec<String> = sorted.iter().map(|(k, v)| format!("{}:{}", json_string(k), canonical_json(v))).collect();
            format!("{{{}}}", inner.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical_json).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// A value as inline TOML. TOML basic strings take every escape that JSON writes.
pub fn inline_toml(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let inner: Vec<String> = map.iter().map(|(k, v)| format!("{}={}", json_string(k), inline_toml(v))).collect();
            format!("{{{}}}", inner.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(inline_toml).collect::<Vec<_>>().join(",")),
        Value::String(s) => json_string(s),
        Value::Null => "\"\"".into(),
        other => other.to_string(),
    }
}

fn json_string(s: &str) -> String {
    Value::String(s.into()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_come_from_a_closed_list() {
        let vars = Vars::from([("cwd", "/p \"q\"".to_string())]);
        assert_eq!(expand("-C{cwd} {{x}}", &vars).unwrap(), "-C/p \"q\" {x}");
        assert!(check("{cwdd}").unwrap_err().contains("unknown variable {cwdd}"));
        assert!(check("a } b").is_err() && check("{cwd").is_err());
    }

    #[test]
    fn structured_values_quote_themselves() {
        let vars = Vars::from([("cwd", "/a \"b\"\\c".to_string())]);
        let v = expand_value(&json!({"p": {"{cwd}": ["x", 1, true]}}), &|s| expand(s, &vars)).unwrap();
        assert_eq!(inline_toml(&v), r#"{"p"={"/a \"b\"\\c"=["x",1,true]}}"#);
    }

    #[test]
    fn hashes_are_of_compact_sorted_json() {
        let v = expand_value(&json!({"$sha256": {"b": 1, "a": [false]}}), &|s| Ok(s.into())).unwrap();
        let want = hex(&Sha256::digest(br#"{"a":[false],"b":1}"#));
        assert_eq!(v, json!(format!("sha256:{want}")));
    }
}
