// Where everything of a FatTree is drawn: Cores above the containers, in each Aggs above ToRs above hosts.

import { byName } from "./format";
import type { Inventory, Layout } from "./types";

export type Kind = "core" | "agg" | "tor" | "smux" | "server" | "client";

export interface Place {
  name: string;
  kind: Kind;
  x: number;
  y: number;
  container: number | null;
  /** The ToR of a host, or null. */
  below: string | null;
  /** Whether it has DIPs, or could. */
  serves: boolean;
}

export interface Drawing {
  width: number;
  height: number;
  places: Map<string, Place>;
  containers: { number: number; x: number; y: number; width: number; height: number }[];
  /** Links of switches, and those to SMuxes, clients and servers. */
  edges: [string, string][];
}

const TOR_WIDTH = 150;
const GAP = 28;
const PAD = 16;
const SERVERS_A_ROW = 8;
const SERVER = 15;
const ROWS = { outside: 26, core: 92, agg: 190, tor: 282, host: 346, server: 384 };

interface Host {
  name: string;
  kind: Kind;
  tor: string;
  serves: boolean;
}

function hostsOf(inventory: Inventory, layout: Layout | null): Host[] {
  if (!layout) {
    return [
      ...inventory.smuxes.map((s) => ({ name: s.name, kind: "smux" as Kind, tor: s.switch, serves: true })),
      ...inventory.servers.map((s) => ({ name: s.name, kind: "server" as Kind, tor: s.switch, serves: true })),
    ];
  }
  const dips = new Set(inventory.servers.map((server) => server.name));
  return layout.nodes
    .filter((node) => node.container !== null && ["smux", "server", "client"].includes(node.kind))
    .map((node) => ({
      name: node.name,
      kind: node.kind as Kind,
      tor: Object.values(node.ports)[0] ?? "",
      serves: node.kind === "smux" || dips.has(node.name),
    }));
}

/** Returns positions in a drawing of its own size; `layout` adds what the controller does not know. */
export function draw(inventory: Inventory, layout: Layout | null): Drawing {
  const places = new Map<string, Place>();
  const put = (place: Place) => void places.set(place.name, place);
  const hosts = hostsOf(inventory, layout);
  const switches = [...inventory.switches].sort((a, b) => byName(a.name, b.name));
  const numbers = [...new Set(switches.map((s) => s.container).filter((n) => n !== null))].sort((a, b) => a - b);
  const containers: Drawing["containers"] = [];
  let x = 0;
  let deepest = ROWS.host;
  for (const number of numbers) {
    const inside = switches.filter((s) => s.container === number);
    const tors = inside.filter((s) => s.role === "tor");
    const aggs = inside.filter((s) => s.role === "agg");
    const width = Math.max(tors.length * TOR_WIDTH, aggs.length * 104) + 2 * PAD;
    tors.forEach((tor, index) => {
      const column = x + PAD + ((index + 0.5) * (width - 2 * PAD)) / tors.length;
      put({ name: tor.name, kind: "tor", x: column, y: ROWS.tor, container: number, below: null, serves: true });
      const own = hosts.filter((host) => host.tor === tor.name).sort((a, b) => byName(a.name, b.name));
      const upper = own.filter((host) => host.kind !== "server");
      upper.forEach((host, at) => {
        const place = column + (at - (upper.length - 1) / 2) * 68;
        put({ ...host, x: place, y: ROWS.host, container: number, below: tor.name });
      });
      const servers = own.filter((host) => host.kind === "server");
      servers.forEach((host, at) => {
        const row = Math.floor(at / SERVERS_A_ROW);
        const inRow = Math.min(SERVERS_A_ROW, servers.length - row * SERVERS_A_ROW);
        const place = column + ((at % SERVERS_A_ROW) - (inRow - 1) / 2) * SERVER;
        const y = ROWS.server + row * SERVER;
        deepest = Math.max(deepest, y);
        put({ ...host, x: place, y, container: number, below: tor.name });
      });
    });
    aggs.forEach((agg, index) => {
      const place = x + PAD + ((index + 0.5) * (width - 2 * PAD)) / aggs.length;
      put({ name: agg.name, kind: "agg", x: place, y: ROWS.agg, container: number, below: null, serves: true });
    });
    containers.push({ number, x, y: ROWS.agg - 46, width, height: 0 });
    x += width + GAP;
  }
  const cores = switches.filter((s) => s.role === "core");
  const width = Math.max(x - GAP, cores.length * 110, 320);
  cores.forEach((core, index) => {
    const share = cores.length === 1 ? 0.5 : (index + 0.5) / cores.length;
    const span = Math.min(width, cores.length * 190);
    const place = (width - span) / 2 + share * span;
    put({ name: core.name, kind: "core", x: place, y: ROWS.core, container: null, below: null, serves: true });
  });
  const edges: [string, string][] = inventory.links.map((link) => link.ends);
  for (const host of hosts) edges.push([host.tor, host.name]);
  for (const node of layout?.nodes ?? []) {
    if (node.kind === "client" && node.container === null) {
      put({
        name: node.name,
        kind: "client",
        x: width / 2,
        y: ROWS.outside,
        container: null,
        below: null,
        serves: false,
      });
      for (const peer of Object.values(node.ports)) edges.push([node.name, peer]);
    }
  }
  const height = deepest + 30;
  for (const container of containers) container.height = height - container.y - 8;
  return { width, height, places, containers, edges };
}

export const edgeKey = (one: string, other: string) => `${one}>${other}`;

/** Adds a flow to directed edges as ECMP does: in equal parts over all shortest ways. */
export function spread(
  neighbours: Map<string, string[]>,
  from: string,
  to: string,
  bps: number,
  into: Map<string, number>,
) {
  if (from === to || !(bps > 0)) return;
  const distance = new Map([[to, 0]]);
  let layer = [to];
  while (layer.length && !distance.has(from)) {
    const next: string[] = [];
    for (const node of layer) {
      for (const other of neighbours.get(node) ?? []) {
        if (!distance.has(other)) {
          distance.set(other, distance.get(node)! + 1);
          next.push(other);
        }
      }
    }
    layer = next;
  }
  if (!distance.has(from)) return;
  let here = new Map([[from, bps]]);
  while (here.size) {
    const next = new Map<string, number>();
    for (const [node, amount] of here) {
      if (node === to) continue;
      const left = distance.get(node)! - 1;
      const ways = (neighbours.get(node) ?? []).filter((other) => distance.get(other) === left);
      for (const way of ways) {
        const part = amount / ways.length;
        const key = edgeKey(node, way);
        into.set(key, (into.get(key) ?? 0) + part);
        next.set(way, (next.get(way) ?? 0) + part);
      }
    }
    here = next;
  }
}
