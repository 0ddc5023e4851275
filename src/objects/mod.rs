//! The Durable Objects: thin shells that hand requests and alarms to the core and perform what it asks for.

#[allow(missing_docs, reason = "the macro writes undocumented exports beside each object")]
pub mod agent_do;
#[allow(missing_docs, reason = "the macro writes undocumented exports beside each object")]
pub mod container_do;
#[allow(missing_docs, reason = "the macro writes undocumented exports beside each object")]
pub mod fleet_do;
mod ledger;
mod perform;
mod response;
#[allow(missing_docs, reason = "the macro writes undocumented exports beside each object")]
pub mod town_do;
mod town_loop;
mod watch;
