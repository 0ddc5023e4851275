-- How the town speaks to agents that live, and what the mayor was shown.

-- One line per agent that was ever spoken to: what waits for it is in `mail` and `nudges`, this says when it is sent.
CREATE TABLE lines (
  agent_id     TEXT PRIMARY KEY,
  -- something waits and the agent lives: send it then; while a message is in the air, the end of its lease
  due_at       INTEGER,
  -- the message in the air and the ids that it holds
  message_id   TEXT,
  items        TEXT NOT NULL DEFAULT '[]',
  -- the same for what a start's prompt carries: the attempt
  carried_by   TEXT,
  carried      TEXT NOT NULL DEFAULT '[]',
  -- sends that failed in a row
  tries        INTEGER NOT NULL DEFAULT 0,
  last_error   TEXT,
  -- when the agent was last spoken to: an older report that it is idle is about an earlier turn
  spoken_at    INTEGER,
  -- its container takes the prompt of every start: the next one may carry what waits
  takes_prompt INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID, STRICT;
CREATE INDEX lines_due ON lines (due_at) WHERE due_at IS NOT NULL;

-- what people look at while they write to the mayor; told with the next message
CREATE TABLE dashboard_contexts (
  seq         INTEGER PRIMARY KEY,
  context     TEXT NOT NULL,
  received_at INTEGER NOT NULL
) STRICT;
