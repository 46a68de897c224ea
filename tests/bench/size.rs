//! The size of the release binary without symbols.

use crate::host::program;
use crate::report::{Report, Row};
use serde_json::json;
use std::process::Command;

pub fn measure(report: &mut Report) {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("iapeer");
    std::fs::copy(program(), &copy).unwrap();
    let stripped = Command::new("strip").arg(&copy).status().is_ok_and(|s| s.success());
    let size = |path: &std::path::Path| std::fs::metadata(path).map_or(f64::NAN, |m| m.len() as f64 / 1_000_000.0);
    let mb = size(&copy);
    let name = if stripped { "release binary, stripped" } else { "release binary as built (no strip here)" };
    report.add(
        Row::new("size", name)
            .value(format!("{mb:.1} MB"))
            .at_most(mb, 15.0, "≤ 15 MB")
            .details(json!({ "built_mb": size(program().as_ref()), "stripped_mb": mb })),
    );
}
