-- Nudges: words for an agent that runs, each delivered once or expired.
CREATE TABLE nudges (
  nudge_id     TEXT PRIMARY KEY,
  seq          INTEGER NOT NULL,
  agent_id     TEXT NOT NULL,
  message      TEXT NOT NULL,
  -- wait-idle, immediate, queue
  mode         TEXT NOT NULL,
  -- 0 urgent, 1 normal: urgent ones go first
  rank         INTEGER NOT NULL,
  -- agent, reconciler, triage, system
  source       TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  expires_at   INTEGER NOT NULL,
  delivered_at INTEGER
) WITHOUT ROWID, STRICT;
CREATE INDEX nudges_by_seq ON nudges (seq);
CREATE INDEX nudges_pending ON nudges (agent_id, rank, seq) WHERE delivered_at IS NULL;
