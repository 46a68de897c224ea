//! Agent programs: loading their definitions, composing a launch, reading hooks and transcripts.

pub mod hooks;
pub mod launch;
pub mod load;
pub mod transcript;
