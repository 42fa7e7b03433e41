// A mux's ports, and the BGP sessions over them.

import type { Layout, MuxStatus } from "./types";

export type Port = MuxStatus["ports"][number];
export type BgpSession = MuxStatus["sessions"][number];

/** The session over a port; an SMux numbers its ports as it lists its sessions. */
export function sessionOver(mux: MuxStatus, port: Port): BgpSession | undefined {
  return port.peer ? mux.sessions.find((session) => session.neighbor === port.peer) : mux.sessions[port.number - 1];
}

/** Who is at the other end of a port. */
export function peerOf(mux: MuxStatus, port: Port, layout: Layout | null): string {
  const there = layout?.nodes.find((node) => node.name === mux.name)?.ports ?? {};
  return there[port.name] ?? sessionOver(mux, port)?.name ?? port.peer ?? "";
}
