// One VIP in the network: who carries it, where its DIPs are, and which way its measured traffic goes.

import { edgeKey, spread } from "./fattree";
import type { Inventory, LinkState, TrafficSample, VipRecord } from "./types";

export interface Highlight {
  /** What a switch carries of the VIP, in words. */
  carriers: Map<string, string>;
  servers: Map<string, "serving" | "out">;
  flows: Map<string, number>;
}

export function servedBy(record: VipRecord): Set<string> {
  const groups = [record.layout.group, ...record.layout.ports.map((p) => p.group), ...record.tips.map((t) => t.tip.group)];
  return new Set(groups.flatMap((group) => group?.members.map((member) => member.address) ?? []));
}

export function allDips(record: VipRecord) {
  const found = new Map(record.spec.dips.map((dip) => [dip.address, dip]));
  for (const port of record.spec.ports) for (const dip of port.dips) if (!found.has(dip.address)) found.set(dip.address, dip);
  return [...found.values()];
}

export function serverOf(inventory: Inventory): Map<string, string> {
  const found = new Map<string, string>();
  for (const server of inventory.servers) for (const dip of server.dips) found.set(dip, server.name);
  return found;
}

export function highlightOf(
  record: VipRecord,
  inventory: Inventory,
  links: LinkState[],
  traffic: TrafficSample[],
): Highlight {
  const carriers = new Map<string, string>();
  const smuxes = inventory.smuxes.map((smux) => smux.name);
  const homes = record.switch ? [record.switch] : smuxes;
  for (const home of homes) carriers.set(home, "VIP");
  for (const { tip, switch: home } of record.tips) {
    if (home) carriers.set(home, carriers.has(home) ? `${carriers.get(home)}, TIP ${tip.address}` : `TIP ${tip.address}`);
  }
  const at = serverOf(inventory);
  const serving = servedBy(record);
  const servers = new Map<string, "serving" | "out">();
  const serverByDip = new Map<string, string>();
  for (const dip of allDips(record)) {
    const server = at.get(dip.host ?? dip.address);
    if (!server) continue;
    serverByDip.set(dip.address, server);
    if (serving.has(dip.address)) servers.set(server, "serving");
    else if (!servers.has(server)) servers.set(server, "out");
  }
  const tipHome = new Map<string, string>();
  for (const { tip, switch: home } of record.tips) {
    if (home) for (const member of tip.group.members) tipHome.set(member.address, home);
  }
  const neighbours = new Map<string, string[]>();
  const join = (one: string, other: string) => {
    neighbours.set(one, [...(neighbours.get(one) ?? []), other]);
    neighbours.set(other, [...(neighbours.get(other) ?? []), one]);
  };
  for (const link of links) if (link.up !== false) join(...link.ends);
  const torOf = new Map(inventory.servers.map((server) => [server.name, server.switch]));
  const flows = new Map<string, number>();
  for (const sample of traffic) {
    if (sample.vip !== record.spec.address || sample.bps <= 0) continue;
    const server = serverByDip.get(sample.dip);
    const tor = server && torOf.get(server);
    if (!server || !tor || !neighbours.has(sample.source)) continue;
    for (const home of homes) {
      const share = sample.bps / homes.length;
      let here = sample.source;
      for (const next of [home, tipHome.get(sample.dip), tor]) {
        if (!next || next === here) continue;
        spread(neighbours, here, next, share, flows);
        here = next;
      }
    }
    const key = edgeKey(tor, server);
    flows.set(key, (flows.get(key) ?? 0) + sample.bps);
  }
  return { carriers, servers, flows };
}
