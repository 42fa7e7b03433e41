// A VIP as people write it in the form, and as the controller takes it.

import { dipText, isAddress } from "./format";
import type { CheckKind, Dip, HealthCheck, PortGroup, VipSpec } from "./types";

export interface Draft {
  address: string;
  name: string;
  dips: string;
  ports: string;
  check: "none" | CheckKind;
  checkPort: string;
  path: string;
  asked: string;
  service: string;
  send: string;
  expect: string;
  snat: boolean;
  place: string;
}

export type Wrong = Partial<Record<keyof Draft, string>>;

export const EMPTY: Draft = {
  address: "",
  name: "",
  dips: "",
  ports: "",
  check: "none",
  checkPort: "80",
  path: "/",
  asked: "localhost",
  service: "",
  send: "",
  expect: "",
  snat: false,
  place: "",
};

export type CheckOption = "path" | "asked" | "service" | "send" | "expect";

/** What a check of a kind asks for, beside its port: the field of the form, of the check, and its label. */
export const CHECKS: Record<CheckKind, { about: string; options: [CheckOption, keyof HealthCheck, string][] }> = {
  tcp: { about: "TCP connection", options: [] },
  http: { about: "HTTP request", options: [["path", "path", "Path"]] },
  https: { about: "HTTPS request", options: [["path", "path", "Path"]] },
  udp: { about: "UDP packet", options: [["send", "send", "It sends"], ["expect", "expect", "It expects"]] },
  dns: { about: "DNS question", options: [["asked", "name", "Name asked for"]] },
  grpc: { about: "gRPC health", options: [["service", "service", "Service"]] },
};

export function draftOf(spec: VipSpec): Draft {
  return {
    ...EMPTY,
    address: spec.address,
    name: spec.name ?? "",
    dips: spec.dips.map(dipText).join("\n"),
    ports: spec.ports.map((group) => `${group.protocol}/${group.port} ${group.dips.map(dipText).join(" ")}`).join("\n"),
    check: spec.health?.kind ?? "none",
    checkPort: String(spec.health?.port ?? 80),
    path: spec.health?.path ?? EMPTY.path,
    asked: spec.health?.name ?? EMPTY.asked,
    service: spec.health?.service ?? EMPTY.service,
    send: spec.health?.send ?? EMPTY.send,
    expect: spec.health?.expect ?? EMPTY.expect,
    snat: spec.snat ?? false,
  };
}

/** Reads `100.1.1.17`, `100.1.1.17*3`, `10.9.0.1*2@100.1.1.17`; throws what is wrong in words. */
export function readDip(text: string): Dip {
  const [, address = "", weight, host] = /^([^*@]*)(?:\*([^@]*))?(?:@(.*))?$/.exec(text) ?? [];
  if (!isAddress(address)) throw new Error(`${text} is no IPv4 address`);
  const dip: Dip = { address };
  if (weight !== undefined) {
    if (!/^\d{1,3}$/.test(weight) || Number(weight) > 255) throw new Error(`${text}: a weight is 0 to 255, not ${weight || "nothing"}`);
    dip.weight = Number(weight);
  }
  if (host) {
    if (!isAddress(host)) throw new Error(`${text}: the host ${host} is no IPv4 address`);
    dip.host = host;
  }
  return dip;
}

const words = (text: string) => text.split(/[\s,]+/).filter(Boolean);

function readPort(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) < 1 || Number(text) > 65535) throw new Error(`${text || "nothing"} is no port: 1 to 65535`);
  return Number(text);
}

function readGroup(line: string): PortGroup {
  const [head = "", ...dips] = words(line);
  const [, protocol, port] = /^(tcp|udp)\/(.*)$/i.exec(head) ?? [];
  if (!protocol || port === undefined) throw new Error(`${head}: begin with a port, such as tcp/80`);
  if (!dips.length) throw new Error(`${head} has no DIPs after it`);
  return { protocol: protocol.toLowerCase() as "tcp" | "udp", port: readPort(port), dips: dips.map(readDip) };
}

/** Returns the VIP, or what is wrong with which field. `before` keeps what the form does not show. */
export function specOf(draft: Draft, before: VipSpec | null): { spec: VipSpec | null; wrong: Wrong } {
  const wrong: Wrong = {};
  const read = <Value>(field: keyof Draft, job: () => Value): Value | undefined => {
    try {
      return job();
    } catch (error) {
      wrong[field] = (error as Error).message;
      return undefined;
    }
  };
  const address = draft.address.trim();
  if (!isAddress(address)) wrong.address = address ? `${address} is no IPv4 address` : "A VIP needs an address";
  if (draft.name && !/^[A-Za-z0-9._-]{1,64}$/.test(draft.name)) wrong.name = "Up to 64 of A-Z, a-z, 0-9, point, dash, underscore";
  const dips = read("dips", () => words(draft.dips).map(readDip));
  const ports = read("ports", () => draft.ports.split("\n").filter((line) => line.trim()).map(readGroup))?.map((group) => {
    const old = before?.ports.find((one) => one.protocol === group.protocol && one.port === group.port);
    return old?.health ? { ...group, health: old.health } : group;
  });
  if (dips && ports && !dips.length && !ports.length) wrong.dips = "A VIP needs a DIP";
  let health: HealthCheck | null | undefined = null;
  if (draft.check !== "none") {
    const port = read("checkPort", () => readPort(draft.checkPort.trim()));
    const old = before?.health?.kind === draft.check ? before.health : {};
    const options = CHECKS[draft.check].options.map(([field, name]) => [name, draft[field] || EMPTY[field]]);
    health = port === undefined ? undefined : { ...old, ...Object.fromEntries(options), kind: draft.check, port };
  }
  if (Object.keys(wrong).length || !dips || !ports) return { spec: null, wrong };
  return { spec: { address, name: draft.name || null, dips, ports, snat: draft.snat, health: health ?? null }, wrong };
}
