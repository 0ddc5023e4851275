// What the predecessor costs on the same workloads: measured once, on its real object classes in workerd with a
// simulated clock. Its tables tell no statements per hour, and its rows written leave out its alarms, which set one row
// each: they are added here, as they are counted for ours. Its C was measured without heartbeats; what those add is
// added, too.

const hour = (n, ticks, rows_read, written, container_calls) => ({
  n,
  ticks,
  statements: null,
  rows_read,
  rows_written: written + ticks,
  container_calls,
});

export const PREDECESSOR = {
  A_10000: hour(10_000, 12, 480_492, 0, 12),
  A1_10000: hour(10_000, 720, 28_828_800, 0, 2_160),
  B_10: hour(10, 116, 552_121, 6_840, 1_382),
  B_100: hour(100, 602, 11_370_267, 27_500, 5_807),
  B_1000: hour(1_000, 602, 771_057_117, 275_000, 47_207),
  C_single_100: hour(100, 720, 8_554_080 + 12_000, 12_000, 73_443),
  // Its table tells this one per event: 3 statements, 20,004 rows read, 5 written.
  E_10000: { n: 10_000, ticks: 0, statements: 3_000, rows_read: 20_004_000, rows_written: 5_000, container_calls: 0 },
};

/** What an hour may cost (issue 3; E: issue 4). */
export const TARGETS = {
  A_10000: { ticks: 0, rows_read: 0, rows_written: 0 },
  A1_10000: { rows_read: 1_500 },
  B_1000: { rows_read: 20_000, rows_written: 2_500 },
  C_100: { rows_read: 60_000, rows_written: 1_500, container_calls: 240 },
  C_forgets_100: { rows_read: 60_000, rows_written: 1_500, container_calls: 240 },
  // Eight rows for each of the thousand events (issue 4).
  E_10000: { rows_read: 8_000, rows_written: 3_000 },
  C_single_100: { rows_read: 60_000, rows_written: 13_000, container_calls: 240 },
};
