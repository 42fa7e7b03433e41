// What the page knows, and how it keeps up: a poll of what is measured, and the stream of what happens.

import { useEffect, useState } from "preact/hooks";
import { ApiError, events, get, said } from "./api";
import { numeric } from "./format";
import type {
  Agent,
  DuetEvent,
  Inventory,
  Layout,
  Life,
  LinkState,
  Listing,
  MuxStatus,
  Session,
  Status,
  TrafficSample,
  VipLine,
} from "./types";

const POLL_MS = 2000;
const SETTLE_MS = 120;
const RETRY_MS = 1000;
const EVENTS_KEPT = 5000;
const PAGE = 1000;
const TRAFFIC_S = 20;

export interface Known {
  session: Session | null;
  inventory: Inventory | null;
  agents: Map<string, Agent>;
  muxes: Map<string, MuxStatus>;
  links: LinkState[];
  status: Status | null;
  vips: VipLine[];
  vipsKnown: boolean;
  traffic: TrafficSample[];
  events: DuetEvent[];
  layout: Layout | null;
  life: Life | null;
  /** Why nothing new is known; empty while all is well. */
  away: string;
}

const known: Known = {
  session: null,
  inventory: null,
  agents: new Map(),
  muxes: new Map(),
  links: [],
  status: null,
  vips: [],
  vipsKnown: false,
  traffic: [],
  events: [],
  layout: null,
  life: null,
  away: "",
};

const listeners = new Set<() => void>();
let drawn = false;

function changed(now: Partial<Known>) {
  Object.assign(known, now);
  if (drawn) return;
  drawn = true;
  queueMicrotask(() => {
    drawn = false;
    for (const listener of listeners) listener();
  });
}

/** All that is known; the component is drawn again when any of it changes. */
export function useKnown(): Known {
  const [, draw] = useState(0);
  useEffect(() => {
    const listener = () => draw((n) => n + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return known;
}

export const mayWrite = () => known.session?.rights !== "reader";

const lines = new Map<string, VipLine>();
let version = 0;

async function listVips() {
  const listing = await get<Listing>(`/v1/listing?after=${version}`);
  if (listing.version === version && known.vipsKnown) return;
  if (listing.whole) lines.clear();
  for (const address of listing.removed) lines.delete(address);
  for (const line of listing.vips) lines.set(line.address, line);
  version = listing.version;
  const order = [...lines.values()].sort((a, b) => numeric(a.address) - numeric(b.address));
  changed({ vips: order, vipsKnown: true });
}

async function look() {
  known.inventory ??= await get<Inventory>("/v1/inventory");
  const [agents, muxes, links, status, traffic] = await Promise.all([
    get<Agent[]>("/v1/agents"),
    get<MuxStatus[]>("/v1/muxes"),
    get<LinkState[]>("/v1/links"),
    get<Status>("/v1/status"),
    get<TrafficSample[]>(`/v1/traffic?seconds=${TRAFFIC_S}`),
    listVips(),
  ]);
  changed({
    agents: new Map(agents.map((agent) => [agent.name, agent])),
    muxes: new Map(muxes.map((mux) => [mux.name, mux])),
    links,
    status,
    traffic,
    away: "",
  });
}

async function lookAtTestbed() {
  if (!known.session?.testbed) return;
  known.layout ??= await get<Layout>("/testbed/v1/layout");
  changed({ life: await get<Life>("/testbed/v1/status") });
}

let looking = false;
let again = false;

/** Looks at everything now; where that is being done, once more after it. */
export async function refresh(): Promise<void> {
  if (looking) {
    again = true;
    return;
  }
  looking = true;
  try {
    do {
      again = false;
      if (!known.session) changed({ session: await session() });
      await Promise.all([look(), lookAtTestbed()]);
    } while (again);
  } catch (error) {
    changed({ away: said(error) });
  } finally {
    looking = false;
  }
}

async function session(): Promise<Session> {
  try {
    return await get<Session>("/session");
  } catch (error) {
    // Served by the controller itself, which knows by the certificate or socket who asks.
    if (!(error instanceof ApiError && error.status === 404)) throw error;
    const { peer } = await get<{ peer: string | null }>("/v1/identity");
    return { rights: peer?.startsWith("reader") ? "reader" : "operator", testbed: null };
  }
}

let settling: ReturnType<typeof setTimeout> | undefined;

function soon() {
  clearTimeout(settling);
  settling = setTimeout(() => void refresh(), SETTLE_MS);
}

async function readPast() {
  const newest = await get<DuetEvent[]>(`/v1/events?limit=${PAGE}`);
  const first = newest[0]?.id ?? 1;
  let after = Math.max(0, first - 1 - (EVENTS_KEPT - PAGE));
  const older: DuetEvent[] = [];
  while (after < first - 1) {
    const page = await get<DuetEvent[]>(`/v1/events?after=${after}&limit=${PAGE}`);
    const fitting = page.filter((event) => event.id < first);
    if (!fitting.length) break;
    older.push(...fitting);
    after = fitting.at(-1)!.id;
  }
  changed({ events: [...older, ...newest] });
}

async function follow() {
  for (;;) {
    try {
      await readPast();
      const last = known.events.at(-1)?.id ?? 0;
      const stop = new AbortController();
      for await (const one of events(`/v1/events/stream?after=${last}`, stop.signal)) {
        if (known.away) soon();
        if (!one || one.event === "message") continue;
        changed({ events: [...known.events, JSON.parse(one.data) as DuetEvent].slice(-EVENTS_KEPT) });
        soon();
      }
      changed({ away: "the controller's events have ended" });
    } catch (error) {
      changed({ away: said(error) });
    }
    void refresh();
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** Begins to keep up, for as long as the page is open. */
export function begin() {
  void refresh().then(() => follow());
  setInterval(() => {
    if (!document.hidden) void refresh();
  }, POLL_MS);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) void refresh();
  });
}
