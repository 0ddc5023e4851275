// Which scenes a round has and where it dies in them: dealt so that every point has its turn, or drawn from a seed.

import { POINTS, RECOVERY, SPARE } from "./points.mjs";
import { draw } from "./round.mjs";

/** Scenes that come first, in this order, in every round; `delete` comes last, in every round. */
const FIRST = ["found", "rig", "settings"];
/** What every piece of work passes. */
const ABORTS = ["loop.dead_man.done", "loop.wait", "loop.arm.set", "start.answered", "start.happened", "command.alarm.get"];
const ANY = ["work", "refused", "lost", "silent", "alone", "cancel", "message", "stop_first", "again", "timer", "air", "crowd", "outage", "drain", "tell", "hook", "forge", "talk"];

/** Every point but the spare ones once over `rounds` rounds, and in every fifth a death of the object alone. */
export function dealt(rounds) {
  const hands = Array.from({ length: rounds }, () => []);
  const all = Object.keys(POINTS).filter((point) => !SPARE.includes(point));
  all.forEach((point, n) => hands[n % rounds].push({ point, mode: "kill", nth: 1 }));
  return hands.map((orders, n) => {
    const random = draw(n + 1);
    const given = orders.map((order) => ({ scene: POINTS[order.point], order }));
    const abort = { point: random.pick(ABORTS), mode: "abort", nth: 1 };
    if (n % 5 === 4) given.push({ scene: "work", order: abort });
    return { seed: n + 1, acts: acts(given, random) };
  });
}

/** A round drawn from its seed: up to six scenes, a death in most of them, and often a second one while it recovers. */
export function drawn(seed) {
  const random = draw(seed);
  const mode = () => (random.chance(0.3) ? "abort" : "kill");
  const scenes = [...FIRST, ...Array.from({ length: 2 + random.below(4) }, () => random.pick(ANY)), "delete"];
  const orders = scenes.map((scene) => {
    const own = Object.keys(POINTS).filter((point) => POINTS[point] === scene);
    if (random.chance(0.35)) return { scene };
    const point = own.length && random.chance(0.7) ? random.pick(own) : random.pick(RECOVERY);
    const next = random.chance(0.4) ? { point: random.pick(RECOVERY), mode: mode(), nth: 1 + random.below(2) } : null;
    return { scene, order: { point, mode: mode(), nth: own.includes(point) ? 1 : 1 + random.below(3) }, next };
  });
  return { seed, acts: acts(orders, random) };
}

function acts(given, random) {
  const all = [...FIRST, "delete"].filter((scene) => !given.some((act) => act.scene === scene));
  const list = [...given, ...all.map((scene) => ({ scene }))];
  // A stop before a start is seen only where that start comes from this scene: no other work waits yet.
  const order = [...FIRST, "stop_first"];
  const rank = ({ scene }) => (scene === "delete" ? 99 : order.indexOf(scene) + 1 || 50);
  return random.shuffle(list).sort((a, b) => rank(a) - rank(b));
}
