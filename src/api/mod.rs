//! HTTP over the unix socket: the server's routes, the client, and the shapes both speak.

pub mod caller;
pub mod client;
pub mod control;
pub mod routes;
pub mod shapes;
