//! `gt mcp`: the commands as tools of the Model Context Protocol, over standard input and output.
//!
//! Guarantee: whatever goes wrong with a call is the tool's error, with the server's text and what to do next, so that the
//! model reads it; the process goes on. Tools run one thread each beside the protocol, which stays answerable.

mod field;
mod mayor;
mod rig;

use crate::{
    caller::{Caller, Who},
    failure::Failure,
};
use field::{Arguments, Tool};
use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _,
    model::{
        self, CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, ToolAnnotations,
    },
    service::RequestContext,
};
use serde_json::Value as Json;
use std::{process::ExitCode, sync::Arc};

/// What a model reads about the tools of a rig's agent.
const RIG: &str = "Tools of an agent in a Gastown rig. Begin with gt_prime: it tells who you are and what your bead asks. \
                   End with gt_done (a refinery that sends work back: gt_request_changes), once your work is committed and \
                   pushed. If you cannot go on, gt_escalate.";
/// The same for the mayor's.
const MAYOR: &str = "Tools of a Gastown town's mayor: hand out work with gt_sling, or with gt_sling_batch where pieces depend on \
                     each other; look with the gt_list_ tools. Rigs may be given by name or id.";

/// The server: who calls, and what it may call.
struct Server {
    caller: Arc<Caller>,
    tools: &'static [Tool],
    about: &'static str,
}

/// `gt mcp`: serves until the client hangs up.
pub fn run(caller: Caller) -> Result<ExitCode, Failure> {
    // A person who logged in speaks as the mayor does: the whole town is theirs.
    let whole_town = caller.is_mayor() || matches!(caller.who, Who::Person { .. });
    let (tools, about) = if whole_town { (mayor::TOOLS, MAYOR) } else { (rig::TOOLS, RIG) };
    let server = Server { caller: Arc::new(caller), tools, about };
    let broken = |what: String| Failure::usage(what, "gt mcp speaks JSON-RPC over standard input; a client starts it.");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| broken(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(async {
        let service = server.serve(rmcp::transport::stdio()).await.map_err(|error| error.to_string())?;
        service.waiting().await.map_err(|error| error.to_string())
    });
    // A call that is still waiting for the worker must not hold up the end.
    runtime.shutdown_background();
    ended.map(|_| ExitCode::SUCCESS).map_err(|error| broken(format!("the session ended: {error}")))
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("gastown", env!("CARGO_PKG_VERSION")))
            .with_instructions(self.about)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = self.tools.iter().map(|tool| {
            model::Tool::new(tool.name, tool.about, tool.schema())
                .with_annotations(ToolAnnotations::new().read_only(tool.reads).destructive(tool.destroys))
        });
        Ok(ListToolsResult::with_all_items(tools.collect()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = self.tools.iter().find(|tool| tool.name == request.name) else {
            let names: Vec<&str> = self.tools.iter().map(|tool| tool.name).collect();
            let text = format!("no tool is called {}; there are {}", request.name, names.join(", "));
            return Ok(failed(text).into());
        };
        let caller = Arc::clone(&self.caller);
        let arguments = Arguments(request.arguments.unwrap_or_default());
        let result = tokio::task::spawn_blocking(move || tool.call(&caller, &arguments)).await;
        Ok(match result {
            Ok(Ok(data)) => CallToolResult::success(vec![ContentBlock::text(told(&data))]),
            Ok(Err(failure)) => failed(failure.explain()),
            Err(error) => failed(format!("{} broke down: {error}", tool.name)),
        }
        .into())
    }
}

fn failed(text: String) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(text)])
}

/// The data as a model reads it.
fn told(data: &Json) -> String {
    if data.is_null() { "done".to_owned() } else { format!("{data:#}") }
}
