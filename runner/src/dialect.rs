//! What the models' tools print when they are asked for JSON, one object per line: words of the model, tool calls, results.
//!
//! The shapes are those that the tools documented in November 2026. A line that is no JSON, or of a kind not known here, is
//! ordinary output: nothing that a tool says is lost by reading it.

use serde_json::Value;

/// How a program's output is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// As it is.
    #[default]
    Plain,
    /// `claude --output-format stream-json`.
    Claude,
    /// `codex exec --json`.
    Codex,
    /// `opencode run --format json`.
    OpenCode,
}

/// One thing that a line says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The model's words.
    Text(String),
    /// The model's last words of a turn: its answer. They may have been said as text before.
    Answer(String),
    /// A tool call begins.
    Tool {
        /// Which call.
        id: String,
        /// Which tool.
        tool: String,
        /// With what.
        input: Value,
    },
    /// A tool call has ended.
    ToolEnd {
        /// Which call.
        id: String,
        /// Whether it failed.
        failed: bool,
    },
    /// The turn failed.
    Trouble(String),
    /// Something that only a machine wants to know; it is neither shown nor kept.
    Noise,
}

impl Dialect {
    /// What the line says; nothing if it is ordinary output.
    #[must_use]
    pub fn read(self, line: &str) -> Option<Vec<Said>> {
        if self == Self::Plain || !line.starts_with('{') {
            return None;
        }
        let value: Value = serde_json::from_str(line.trim_end()).ok()?;
        match self {
            Self::Plain => None,
            Self::Claude => claude(&value),
            Self::Codex => codex(&value),
            Self::OpenCode => opencode(&value),
        }
    }
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn field(value: &Value, name: &str) -> Value {
    value.get(name).cloned().unwrap_or(Value::Null)
}

fn claude(value: &Value) -> Option<Vec<Said>> {
    let blocks = || value.get("message").and_then(|message| message.get("content")).and_then(Value::as_array);
    match value.get("type")?.as_str()? {
        "system" => Some(vec![Said::Noise]),
        "assistant" | "user" => Some(blocks()?.iter().filter_map(claude_block).collect()),
        "result" => {
            let words = text(value, "result");
            let failed = value.get("is_error").and_then(Value::as_bool) == Some(true);
            Some(vec![if failed { Said::Trouble(words) } else { Said::Answer(words) }])
        }
        _ => None,
    }
}

fn claude_block(block: &Value) -> Option<Said> {
    match block.get("type")?.as_str()? {
        "text" => Some(Said::Text(text(block, "text"))),
        "tool_use" => {
            Some(Said::Tool { id: text(block, "id"), tool: text(block, "name"), input: field(block, "input") })
        }
        "tool_result" => Some(Said::ToolEnd {
            id: text(block, "tool_use_id"),
            failed: block.get("is_error").and_then(Value::as_bool) == Some(true),
        }),
        _ => None,
    }
}

fn codex(value: &Value) -> Option<Vec<Said>> {
    let kind = value.get("type")?.as_str()?;
    let item = value.get("item");
    match (kind, item) {
        ("item.started" | "item.completed", Some(item)) => {
            let id = text(item, "id");
            let said = match item.get("type").and_then(Value::as_str).unwrap_or_default() {
                "agent_message" if kind == "item.completed" => {
                    return Some(vec![Said::Text(text(item, "text")), Said::Answer(text(item, "text"))]);
                }
                "reasoning" | "agent_message" => Said::Noise,
                "error" => Said::Text(text(item, "message")),
                _ if kind == "item.completed" => {
                    Said::ToolEnd { id, failed: matches!(text(item, "status").as_str(), "failed" | "declined") }
                }
                "command_execution" => Said::Tool { id, tool: "command".to_owned(), input: field(item, "command") },
                "mcp_tool_call" => Said::Tool { id, tool: text(item, "tool"), input: field(item, "arguments") },
                other => Said::Tool { id, tool: other.to_owned(), input: Value::Null },
            };
            Some(vec![said])
        }
        ("turn.failed", _) => Some(vec![Said::Trouble(text(value.get("error")?, "message"))]),
        ("error", _) => Some(vec![Said::Trouble(text(value, "message"))]),
        ("thread.started" | "turn.started" | "turn.completed" | "item.updated", _) => Some(vec![Said::Noise]),
        _ => None,
    }
}

fn opencode(value: &Value) -> Option<Vec<Said>> {
    let part = value.get("part");
    match (value.get("type")?.as_str()?, part) {
        ("text", Some(part)) => Some(vec![Said::Text(text(part, "text")), Said::Answer(text(part, "text"))]),
        // It is told of when it has ended.
        ("tool_use", Some(part)) => {
            let (id, state) = (text(part, "callID"), part.get("state").unwrap_or(&Value::Null));
            let failed = text(state, "status") == "error";
            let call = Said::Tool { id: id.clone(), tool: text(part, "tool"), input: field(state, "input") };
            Some(vec![call, Said::ToolEnd { id, failed }])
        }
        ("step_start" | "step_finish", _) => Some(vec![Said::Noise]),
        ("error", _) => {
            let error = value.get("error")?;
            let data = error.get("data").unwrap_or(&Value::Null);
            let words = Some(text(data, "message")).filter(|words| !words.is_empty());
            let status = data.get("statusCode").map(|status| format!(" (status {status})")).unwrap_or_default();
            Some(vec![Said::Trouble(words.unwrap_or_else(|| error.to_string()) + &status)])
        }
        _ => None,
    }
}

/// The status with which a model's gateway refused, if the tool's complaint names one: `API Error: 429 …`,
/// `last status: 503 …`. A number that stands elsewhere is none.
#[must_use]
pub fn refusal(complaint: &str) -> Option<u16> {
    let words: Vec<&str> =
        complaint.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let named = |word: &str| ["error", "status", "code", "http"].contains(&word.to_ascii_lowercase().as_str());
    words.windows(2).find_map(|pair| match pair {
        [before, number] if named(before) && number.len() == 3 => {
            number.parse().ok().filter(|status| (400..600).contains(status))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Dialect, Said, refusal};
    use serde_json::json;

    fn tool(id: &str, tool: &str, input: serde_json::Value) -> Said {
        Said::Tool { id: id.to_owned(), tool: tool.to_owned(), input }
    }

    #[test]
    fn claudes_stream_is_words_tools_and_an_answer() {
        let line = r#"{"type":"assistant","message":{"content":[{"type":"text","text":"hm"},{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"ls"}}]}}"#;
        let wanted = vec![Said::Text("hm".to_owned()), tool("t1", "Bash", json!({ "command": "ls" }))];
        assert_eq!(Dialect::Claude.read(line), Some(wanted));
        let line = r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"x","is_error":true}]}}"#;
        assert_eq!(Dialect::Claude.read(line), Some(vec![Said::ToolEnd { id: "t1".to_owned(), failed: true }]));
        let line = r#"{"type":"result","subtype":"success","is_error":false,"result":"done"}"#;
        assert_eq!(Dialect::Claude.read(line), Some(vec![Said::Answer("done".to_owned())]));
        let line = r#"{"type":"result","is_error":true,"result":"429"}"#;
        assert_eq!(Dialect::Claude.read(line), Some(vec![Said::Trouble("429".to_owned())]));
    }

    #[test]
    fn codex_and_opencode_say_the_same_in_their_own_words() {
        let line = r#"{"type":"item.started","item":{"id":"i1","type":"command_execution","command":"ls"}}"#;
        assert_eq!(Dialect::Codex.read(line), Some(vec![tool("i1", "command", json!("ls"))]));
        let line = r#"{"type":"item.completed","item":{"id":"i1","type":"command_execution","status":"completed"}}"#;
        assert_eq!(Dialect::Codex.read(line), Some(vec![Said::ToolEnd { id: "i1".to_owned(), failed: false }]));
        let line = r#"{"type":"tool_use","part":{"callID":"c1","tool":"bash","state":{"status":"completed","input":{"a":1}}}}"#;
        let wanted = vec![tool("c1", "bash", json!({ "a": 1 })), Said::ToolEnd { id: "c1".to_owned(), failed: false }];
        assert_eq!(Dialect::OpenCode.read(line), Some(wanted));
    }

    #[test]
    fn a_gateways_status_is_known_from_where_it_stands() {
        assert_eq!(refusal("API Error: 429 {\"type\":\"error\"}"), Some(429));
        assert_eq!(refusal("exceeded retry limit, last status: 503 Service Unavailable"), Some(503));
        let line = r#"{"type":"error","error":{"name":"APIError","data":{"message":"no","statusCode":401}}}"#;
        assert_eq!(Dialect::OpenCode.read(line), Some(vec![Said::Trouble("no (status 401)".to_owned())]));
        for other in ["line 404 is wrong", "error 4291", "error 200", "status unknown", ""] {
            assert_eq!(refusal(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_understood_is_ordinary_output() {
        for line in ["hello", "{", "{\"type\":\"new\"}", "{\"a\":1}", "[]"] {
            assert_eq!(Dialect::Claude.read(line), None, "{line}");
        }
        assert_eq!(Dialect::Plain.read("{\"type\":\"system\"}"), None);
    }
}
