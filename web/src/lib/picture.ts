// What is so now, or was at an earlier time as the events tell, in the form that the topology draws.

import type { Known } from "./store";
import type { DuetEvent, Reach } from "./types";
import type { Picture } from "../ui/topology";

export function pictureOf(known: Known): Picture {
  const vipsOn = new Map<string, number>();
  for (const vip of known.vips) if (vip.switch) vipsOn.set(vip.switch, (vipsOn.get(vip.switch) ?? 0) + 1);
  for (const mux of known.muxes.values()) {
    if (mux.kind === "hmux" && mux.tips) vipsOn.set(mux.name, (vipsOn.get(mux.name) ?? 0) + mux.tips);
  }
  return {
    reach: new Map([...known.agents.values()].map((agent) => [agent.name, agent.reach])),
    links: new Map(known.links.map((link) => [link.ends.join("-"), link])),
    failed: new Set(known.life?.failed ?? []),
    cutOff: new Set(known.status?.cut_off ?? []),
    draining: new Set([...known.muxes.values()].filter((mux) => mux.draining).map((mux) => mux.name)),
    vipsOn,
  };
}

const REACHED: Record<string, Reach> = {
  "device-back": "ready",
  "device-unreachable": "unreachable",
  "device-lost": "lost",
};
const PLACED = new Set(["vip-added", "vip-placed", "returned", "left-to-smuxes", "vip-removed"]);

/** Where a VIP was at a time: as the last event before it says, or else until the first one after it. */
function placedAt(events: DuetEvent[], time: number): Map<string, string | null> {
  const placed = new Map<string, string | null>();
  for (const event of events) {
    if (event.time > time) break;
    if (!PLACED.has(event.kind)) continue;
    if (event.kind === "vip-removed") placed.delete(event.subject);
    else placed.set(event.subject, event.kind === "left-to-smuxes" ? null : ((event.detail.switch as string) ?? null));
  }
  return placed;
}

/** The network as the events up to a time (Unix seconds) tell of it. Loads are not kept, so there are none. */
export function pictureAt(known: Known, time: number): Picture & { placed: Map<string, string | null> } {
  const reach = new Map<string, Reach>([...known.agents.keys()].map((name) => [name, "ready"]));
  const down = new Set<string>();
  const cutOff = new Set<string>();
  const stated = { failed: new Set<string>(), draining: new Set<string>() };
  for (const event of known.events) {
    if (event.time > time) break;
    const after = event.kind === "stated" ? (event.detail.after as Record<string, unknown>) : {};
    for (const what of ["failed", "draining"] as const) {
      if (after[what] === true) stated[what].add(event.subject);
      else if (after[what] === false) stated[what].delete(event.subject);
    }
    const reached = REACHED[event.kind];
    if (reached) reach.set(event.subject, reached);
    else if (event.kind === "link-down") down.add(event.subject);
    else if (event.kind === "link-up") down.delete(event.subject);
    else if (event.kind === "server-cut-off") cutOff.add(event.subject);
    else if (event.kind === "server-back") cutOff.delete(event.subject);
  }
  const placed = placedAt(known.events, time);
  const told = new Set(known.events.filter((e) => PLACED.has(e.kind)).map((e) => e.subject));
  for (const vip of known.vips) if (!told.has(vip.address)) placed.set(vip.address, vip.switch);
  const vipsOn = new Map<string, number>();
  for (const home of placed.values()) {
    if (home && !["unreachable", "lost"].includes(reach.get(home) ?? "ready")) vipsOn.set(home, (vipsOn.get(home) ?? 0) + 1);
  }
  return {
    reach,
    links: new Map(
      known.links.map((link) => [
        link.ends.join("-"),
        { ...link, bps: [0, 0] as [number, number], up: !down.has(link.ends.join("-")) },
      ]),
    ),
    cutOff,
    vipsOn,
    placed,
    ...stated,
  };
}

export const TONES: Record<string, "good" | "warn" | "bad" | "info"> = {
  "device-lost": "bad",
  "device-unreachable": "bad",
  "link-down": "bad",
  "dip-down": "bad",
  "server-cut-off": "bad",
  "node-cut-off": "bad",
  "update-failed": "bad",
  "job-failed": "bad",
  "monitoring-suspect": "warn",
  "health-suspect": "warn",
  "left-to-smuxes": "warn",
  "flows-unknown": "warn",
  "device-back": "good",
  "link-up": "good",
  "dip-up": "good",
  "server-back": "good",
  "node-back": "good",
  returned: "good",
};
