//! `iapeer mcp`: the stdio server that every agent gets. A small bridge to the socket; it ends when its
//! standard input ends, not when the daemon does.

use super::{Done, Outcome, hook, mail, offline};
use crate::api::client::{ANSWER, Client};
use crate::api::shapes::{MessageView, PeerView, Recipients, SendRequest, Via};
use crate::core::fault::{Code, Fault};
use crate::core::message::MessageId;
use crate::core::names::Identity;
use crate::daemon::accept;
use crate::runtime::hooks::TOOLS_LISTED;
use crate::store::layout::Root;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, Implementation, JsonObject, ListToolsResult, PaginatedRequestParams, ServerCapabilities,
    ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt};
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;

const INSTRUCTIONS: &str = "Messages between the agents of this host. Use send_to_peer to ask, answer or inform another peer by its name; \
    answer a message by sending to the peer in its `from`, with its id as in_reply_to. Answers arrive later as messages; no call waits for another agent. \
    Do not send empty acknowledgements. `operator` is the person in charge.";

struct Bridge {
    root: Root,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendArguments {
    name: String,
    text: String,
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    in_reply_to: Option<MessageId>,
    #[serde(default)]
    urgent: bool,
    #[serde(default)]
    attachments: Vec<PathBuf>,
}

pub async fn serve(root: Root) -> Outcome {
    let service = Bridge { root }.serve(rmcp::transport::io::stdio()).await;
    match service {
        Ok(running) => {
            let _ = running.waiting().await;
            Ok(Done::Ok)
        }
        // The program closed the pipe before it said hello.
        Err(rmcp::service::ServerInitializeError::ConnectionClosed(_)) => Ok(Done::Ok),
        Err(error) => Err(Fault::new(Code::Invalid, format!("the MCP handshake failed: {error}"))),
    }
}

fn schema(value: serde_json::Value) -> JsonObject {
    value.as_object().cloned().unwrap_or_default()
}

fn tools() -> Vec<Tool> {
    let send = schema(json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["name", "text"],
        "properties": {
            "name": {"type": "string", "description": "the peer's name, or operator"},
            "text": {"type": "string", "description": "the message"},
            "topic": {"type": "string", "description": "the thread of work it belongs to; one line"},
            "in_reply_to": {"type": "string", "description": "id of the message this answers"},
            "urgent": {"type": "boolean", "description": "goes before normal mail"},
            "attachments": {"type": "array", "items": {"type": "string"}, "description": "absolute paths of files in your own folder; the recipient gets copies"}
        }
    }));
    let nothing = schema(json!({"type": "object", "additionalProperties": false, "properties": {}}));
    vec![
        Tool::new("send_to_peer", "Sends a message to another agent of this host, or to the operator. Returns its id once it is durably accepted.", send),
        Tool::new("list_peers", "Lists the agents of this host with their state and description.", nothing.clone()),
        Tool::new("self_done", "Says that this session has nothing left to do: its task is acknowledged, and it may be put to sleep.", nothing.clone()),
        Tool::new(
            "self_fresh",
            "Asks for a fresh session of yourself: this one ends when your turn is over, with everything in its context, and a new one begins.",
            nothing,
        ),
    ]
}

impl ServerHandler for Bridge {
    fn get_info(&self) -> ServerConfig {
        let mut capabilities = ServerCapabilities::default();
        capabilities.tools = Some(Default::default());
        ServerConfig::new(capabilities).with_server_info(Implementation::new("iapeer", env!("CARGO_PKG_VERSION"))).with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(&self, _request: Option<PaginatedRequestParams>, _context: RequestContext<RoleServer>) -> Result<ListToolsResult, ErrorData> {
        let listed = ListToolsResult { tools: tools(), ..ListToolsResult::default() };
        // The first message waits until the program knows its tools.
        let root = self.root.clone();
        if hook::session().is_some() || super::link::below_a_keeper(&root) {
            tokio::spawn(async move { hook::report(&root, TOOLS_LISTED, serde_json::Value::Null).await });
        }
        Ok(listed)
    }

    async fn call_tool(&self, request: CallToolRequestParams, _context: RequestContext<RoleServer>) -> Result<CallToolResponse, ErrorData> {
        let arguments = serde_json::Value::Object(request.arguments.unwrap_or_default());
        let outcome = match request.name.as_ref() {
            "send_to_peer" => match serde_json::from_value(arguments) {
                Ok(arguments) => self.send(arguments).await,
                Err(error) => Err(Fault::new(Code::Invalid, format!("the arguments of send_to_peer: {error}"))),
            },
            "list_peers" => self.list().await,
            "self_done" => self.of_itself("done").await,
            "self_fresh" => self.of_itself("fresh").await,
            other => return Err(ErrorData::invalid_params(format!("no tool is named {other}"), None)),
        };
        Ok(CallToolResponse::from(match outcome {
            Ok(value) => CallToolResult::structured(value),
            Err(fault) => CallToolResult::structured_error(json!({ "error": fault })),
        }))
    }
}

impl Bridge {
    async fn send(&self, arguments: SendArguments) -> Result<serde_json::Value, Fault> {
        let request = SendRequest {
            id: Some(accept::new_id()),
            topic: arguments.topic,
            in_reply_to: arguments.in_reply_to,
            urgent: arguments.urgent,
            attachments: arguments.attachments,
            ..SendRequest::new(Recipients::One(arguments.name), arguments.text, Via::Mcp)
        };
        let tried: Result<serde_json::Value, Fault> = match Client::connect(&self.root).await {
            Ok(mut client) => client.post("/v1/messages", &request, ANSWER).await,
            Err(fault) => Err(fault),
        };
        let sent = match tried {
            Ok(value) => mail::views(value)?,
            // This bridge outlives the daemon: the next one takes the message in, under the same id.
            Err(fault) if fault.code == Code::DaemonUnreachable => offline::leave(&self.root, &request)?,
            Err(fault) => return Err(fault),
        };
        let told = |view: &MessageView| json!({"id": view.id, "to": view.to, "state": view.state, "reason": view.reason});
        Ok(match sent.as_slice() {
            [one] => told(one),
            many => json!({ "copies": many.iter().map(told).collect::<Vec<_>>() }),
        })
    }

    async fn of_itself(&self, what: &str) -> Result<serde_json::Value, Fault> {
        let mut client = Client::connect(&self.root).await?;
        let identity: Identity = client.post(&format!("/v1/self/{what}"), &json!({}), ANSWER).await?;
        Ok(json!({ "identity": identity, "noted": what }))
    }

    async fn list(&self) -> Result<serde_json::Value, Fault> {
        let peers: Vec<PeerView> = Client::connect(&self.root).await?.get("/v1/peers", ANSWER).await?;
        let shown: Vec<serde_json::Value> = peers
            .iter()
            .map(|p| json!({"name": p.personality, "description": p.description, "state": p.runtimes.first().map(|r| &r.state), "runtime": p.default_runtime}))
            .collect();
        Ok(json!({ "peers": shown }))
    }
}
