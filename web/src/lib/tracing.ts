// A traced exchange as the page walks through it: one place after the other, from the first packet to the last.

import { ago, clock } from "./format";
import type { Changed, Journey, PacketStep, PacketTrace, TracedPacket, Value } from "./types";

/** Where somebody is: a packet, a hop on its way, a step there; -1 is its arrival, the count its departure. */
export interface Spot {
  packet: number;
  hop: number;
  step: number;
}

const SHOWN = new Set(["state", "branch", "table", "work", "drop"]);

/** The steps of a device that are worth a stop: no statement that changed nothing, and no condition that does not hold but in `all`. */
export function stepsOf(trace: PacketTrace | null, all: boolean): PacketStep[] {
  return (trace?.steps ?? []).filter((step) => {
    if (step.kind === "branch") return all || step.taken;
    return SHOWN.has(step.kind) && (step.kind !== "table" || step.key.length > 0 || step.changes.length > 0 || step.counters.length > 0);
  });
}

export function spotsOf(journey: Journey, all: boolean): Spot[] {
  return journey.packets.flatMap((packet, p) =>
    packet.hops.flatMap((hop, h) => {
      const count = hop.trace ? stepsOf(hop.trace, all).length : -1;
      return Array.from({ length: count + 2 }, (_, n) => ({ packet: p, hop: h, step: n - 1 }));
    }),
  );
}

/** The links that a packet travelled, as `from>to`. */
export function waysOf(packet: TracedPacket): string[] {
  const nodes = packet.hops.map((hop) => hop.node);
  const first = packet.hops[0];
  const last = packet.hops.at(-1);
  if (first?.came_from && first.came_from !== nodes[0]) nodes.unshift(first.came_from);
  if (last?.went_to && last.went_to !== nodes.at(-1)) nodes.push(last.went_to);
  return nodes.slice(1).map((node, n) => `${nodes[n]}>${node}`);
}

const dotted = (value: number) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join(".");

/** A value as people write it: addresses by what the field is called and how wide it is. */
export function shown(name: string, value: string | null): string {
  if (value === null) return "–";
  const digits = value.length - 2;
  if (digits === 8 && /addr|dst|src|dip|vip|tunnel|loopback|_mux/.test(name) && !/hash/.test(name)) return dotted(parseInt(value, 16));
  if (digits === 12) return value.slice(2).match(/../g)!.join(":");
  if (digits > 12) return value;
  const number = parseInt(value, 16);
  return /hash|checksum|ether_type/.test(name) || number >= 100_000 ? value : String(number);
}

/** What an entry wants: a value, with the length of its prefix or its mask, or a range. */
export function wanted(name: string, value: string): string {
  const [first, rest] = value.split("/");
  return rest === undefined ? shown(name, value) : `${shown(name, first!)}/${rest}`;
}

export const shortName = (field: string) =>
  field.replace(/^(scalars|standard_metadata)\./, "").replace(/^(userMetadata|metadata_t)\./, "").replace(/^(metadata_t\.)?_(.*?)\d+$/, "$2");


/** What a step changed, a header that comes or goes with its fields as one. */
export function changesOf(changes: Changed[]): { field: string; before: string; after: string }[] {
  const came = new Set(changes.filter((one) => !one.field.includes(".") && one.after === "0x1").map((one) => one.field));
  const gone = new Set(changes.filter((one) => !one.field.includes(".") && one.after === "0x0").map((one) => one.field));
  return changes.flatMap((one) => {
    const [header = ""] = one.field.split(".");
    if (came.has(one.field)) return [{ field: one.field, before: "", after: "added" }];
    if (gone.has(one.field)) return [{ field: one.field, before: "", after: "removed" }];
    if (gone.has(header)) return [];
    return [{ field: shortName(one.field), before: shown(one.field, one.before), after: shown(one.field, one.after) }];
  });
}

/** Headers in their order, each with its fields. */
export function headersOf(values: Value[]): [string, Value[]][] {
  const found = new Map<string, Value[]>();
  for (const value of values) {
    const [header = "", ...rest] = value.name.split(".");
    found.set(header, [...(found.get(header) ?? []), { ...value, name: rest.join(".") }]);
  }
  return [...found];
}

export function installedBy(step: PacketStep): string {
  const known = step.installed;
  if (!known || (known.at === null && known.by === null)) return "";
  const when = known.at === null ? "" : ` at ${clock(known.at)}, ${ago(Date.now() / 1000 - known.at)} ago`;
  return `put there${known.by ? ` by ${known.by}` : ""}${when}`;
}

/** How slots and hashes came out in one device: every value of such a name, the last one of each. */
export function picksOf(trace: PacketTrace): Value[] {
  const found = new Map<string, Value>();
  for (const step of trace.steps) {
    const values = [
      ...step.changes.filter((one) => one.after !== null).map((one) => ({ name: shortName(one.field), value: one.after!, width: one.width })),
      // In an SMux and a server, the arguments of what is not an action of P4 are what was found or worked out.
      ...(step.action === null ? step.arguments : []),
    ];
    for (const value of values) if (/hash|slot/.test(value.name)) found.set(value.name, value);
  }
  return [...found.values()];
}
