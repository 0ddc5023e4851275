-- Molecules: ordered steps attached to a bead. `step_beads` is a JSON list: the bead of each step of the formula.
CREATE TABLE molecules (
  -- the molecule's own bead
  bead_id         TEXT PRIMARY KEY,
  -- the bead that it is attached to
  subject_bead_id TEXT NOT NULL,
  formula         TEXT NOT NULL,
  step_beads      TEXT NOT NULL,
  current_step    INTEGER NOT NULL DEFAULT 0,
  -- active, completed, failed
  status          TEXT NOT NULL,
  created_at      INTEGER NOT NULL,
  updated_at      INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE UNIQUE INDEX molecules_active ON molecules (subject_bead_id) WHERE status = 'active';
CREATE INDEX molecules_of ON molecules (subject_bead_id);

-- The agents that the town's container says it runs: a JSON list of {agentId, request, workdir, env}, without secrets.
CREATE TABLE container_registry (
  id        INTEGER PRIMARY KEY CHECK (id = 1),
  entries   TEXT NOT NULL,
  stored_at INTEGER NOT NULL
) STRICT;
