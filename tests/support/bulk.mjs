// Rows in bulk, behind the town's back: what is stored must not matter.

const STEP = 20_000;

/** Stores `n` closed beads of a rig: one by the public routes, the rest as copies of it. */
export async function storeClosed(town, rigId, n) {
  if (n === 0) return;
  const rig = town.rig(rigId);
  const bead = await rig.ok("POST", "/beads", { type: "issue", title: "Old", labels: ["gt:held"] });
  await rig.ok("PATCH", `/beads/${bead.id}/status`, { status: "closed", agent_id: "me" });
  const columns = (await town.rows("PRAGMA table_info(beads)")).map((column) => column.name);
  const unique = (name) => {
    if (name === "bead_id") return "printf('%08x-0000-4000-8000-%012x', n.i, n.i)";
    if (name === "seq") return "1000000 + n.i";
    return `b."${name}"`;
  };
  const list = columns.map((name) => `"${name}"`).join(", ");
  for (let from = 1; from < n; from += STEP) {
    await town.sql(
      `INSERT INTO beads (${list})
       WITH RECURSIVE n(i) AS (SELECT ${from} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ${Math.min(from + STEP, n)})
       SELECT ${columns.map(unique).join(", ")} FROM n, beads b WHERE b.bead_id = ?`,
      bead.id,
    );
  }
  const [{ stored }] = await town.rows("SELECT count(*) AS stored FROM beads WHERE status = 'closed'");
  if (stored !== n) throw new Error(`${stored} closed beads stored, not ${n}`);
}
