-- Agents that were removed and whose store (AgentDO) is still to be erased; `due_at` is moved on while that is being tried.
CREATE TABLE departed (
  agent_id  TEXT PRIMARY KEY,
  booked_at INTEGER NOT NULL,
  due_at    INTEGER NOT NULL,
  tries     INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID, STRICT;
CREATE INDEX departed_due ON departed (due_at);
