//! Mail: `gt mail check | send | list`.

use crate::{
    caller::Caller,
    client::Call,
    failure::Failure,
    input,
    output::{Answer, items, short, table, time, word},
    resolve,
};
use clap::Subcommand;
use serde_json::{Value as Json, json};

/// `gt mail …`
#[derive(Debug, Subcommand)]
pub enum MailCommand {
    /// For agents: read what is new. What is read is delivered, and does not come again
    #[command(after_help = "Examples:\n  gt mail check")]
    Check,
    /// Write to an agent, or to the mayor
    #[command(
        after_help = "Examples:\n  gt mail send mayor --subject \"Question\" \"Which branch?\"\n  gt mail send Toast \
                            --subject Log - < build.log"
    )]
    Send {
        /// The agent: its id, the beginning of it, its name, or mayor
        to: String,
        /// What it is about
        #[arg(long, short)]
        subject: String,
        /// The text; - reads standard input
        body: String,
    },
    /// For people: all mail of the town, with what was delivered when
    #[command(after_help = "Examples:\n  gt mail list --to mayor\n  gt mail list --limit 20 --json")]
    List {
        /// Only what was written to this agent, or to mayor
        #[arg(long, value_name = "AGENT")]
        to: Option<String>,
        /// How many, newest first
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Only what is older than this mail (the `next` of --json)
        #[arg(long, value_name = "MAIL")]
        before: Option<String>,
    },
}

/// Reads the agent's new mail. It is delivered by that, so it is asked for once.
pub fn check(caller: &Caller) -> Result<Json, Failure> {
    caller.call(&Call::get(caller.agent_path("mail")?).once())
}

/// Writes a mail from who calls, by the rig's route.
pub fn send(caller: &Caller, to: &str, subject: &str, body: &str) -> Result<Json, Failure> {
    let mail = json!({ "from_agent_id": caller.name(), "to_agent_id": to, "subject": subject, "body": body });
    caller.call(&Call::post(caller.any_rig_path("mail")?, mail))
}

impl MailCommand {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        match self {
            Self::Check => Ok(Answer::of(check(caller)?, mails_text)),
            Self::Send { to, subject, body } => {
                let (to, body) = (resolve::agent(caller, to)?, input::text(body)?);
                Ok(Answer::new(send(caller, &to, subject, &body)?, "sent"))
            }
            Self::List { to, limit, before } => {
                let to = to.as_deref().map(|agent| resolve::agent(caller, agent)).transpose()?;
                let call = Call::get(caller.town_path("mail")?).with("to", to.as_ref()).with("limit", Some(limit));
                Ok(Answer::of(caller.call(&call.with("before", before.as_ref()))?, list_text))
            }
        }
    }
}

fn mails_text(mails: &Json) -> String {
    let mails: Vec<String> = items(mails, "")
        .iter()
        .map(|mail| {
            let head = format!(
                "from {}, {}: {}",
                word(mail, "from_agent_id"),
                time(mail, "created_at"),
                word(mail, "subject")
            );
            format!("{head}\n{}", word(mail, "body"))
        })
        .collect();
    if mails.is_empty() { "no new mail".to_owned() } else { mails.join("\n\n") }
}

fn list_text(data: &Json) -> String {
    let rows: Vec<Vec<String>> = items(data, "mail")
        .iter()
        .map(|mail| {
            vec![
                short(mail, "id"),
                time(mail, "created_at"),
                short(mail, "from_agent_id"),
                short(mail, "to_agent_id"),
                time(mail, "delivered_at"),
                word(mail, "subject"),
            ]
        })
        .collect();
    table(&["MAIL", "WRITTEN", "FROM", "TO", "DELIVERED", "SUBJECT"], &rows, "no mail")
}
