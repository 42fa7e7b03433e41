// Flows of a VIP, or those that pass a device, as switches, SMuxes and servers have sampled them, live.

import { useEffect, useState } from "preact/hooks";
import { ApiError, get } from "../lib/api";
import { ago, count, rate } from "../lib/format";
import { to } from "../lib/router";
import type { FlowRecord, FlowRecords } from "../lib/types";
import { Badge, Card, Empty, Failure } from "./parts";

const LOOK_MS = 2000;
const SHOWN = 60;
const PROTOCOLS: Record<number, string> = { 1: "ICMP", 6: "TCP", 17: "UDP" };

export const protocolName = (number: number) => PROTOCOLS[number] ?? String(number);

const ends = (one: FlowRecord) =>
  `${one.protocol} ${one.source}:${one.source_port} ${one.destination}:${one.destination_port}`;

/** Records of the same flow at several devices as one row each flow. */
function flowsOf(records: FlowRecord[]): FlowRecord[][] {
  const found = new Map<string, FlowRecord[]>();
  for (const record of records) found.set(ends(record), [...(found.get(ends(record)) ?? []), record]);
  const last = (flow: FlowRecord[]) => Math.max(...flow.map((one) => one.last));
  return [...found.values()].sort((a, b) => last(b) - last(a));
}

/** What is known of flows that a query (of `/v1/flow-records`) names, looked at again and again. */
function useFlows(query: string) {
  const [found, setFound] = useState<FlowRecords | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    let wanted = true;
    const look = () =>
      get<FlowRecords>(`/v1/flow-records?${query}&limit=500`).then(
        (answer) => wanted && (setFound(answer), setError(null)),
        (thrown: unknown) => wanted && !(thrown instanceof ApiError && thrown.status >= 500) && setError(thrown),
      );
    void look();
    const timer = setInterval(() => !document.hidden && void look(), LOOK_MS);
    return () => {
      wanted = false;
      clearInterval(timer);
    };
  }, [query]);
  return { found, error, flows: flowsOf(found?.records ?? []) };
}

export function FlowsCard({ vip, serverOf }: { vip: string; serverOf: Map<string, string> }) {
  const { found, error, flows } = useFlows(`vip=${vip}`);
  return (
    <Card title={<>Flows <small>{flows.length ? `${count(flows.length)}, sampled` : "sampled"}</small></>}>
      <Failure error={error} />
      {found && !flows.length && <Empty>No flow of this VIP was seen lately.</Empty>}
      {flows.length > 0 && (
        <div class="scroll" tabIndex={0}>
          <table class="records">
            <thead>
              <tr>
                <th>From</th>
                <th>To</th>
                <th>Passes</th>
                <th>DIP</th>
                <th class="number">About</th>
                <th class="number">Answers</th>
                <th class="number">Last</th>
              </tr>
            </thead>
            <tbody>
              {flows.slice(0, SHOWN).map((flow) => (
                <Flow key={ends(flow[0]!)} flow={flow} serverOf={serverOf} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {flows.length > SHOWN && <p class="hint">The latest {SHOWN} of {count(flows.length)}.</p>}
      {found && found.unreachable.length > 0 && <p class="hint">{found.unreachable.join(", ")} did not answer.</p>}
    </Card>
  );
}

/** The flows that pass one switch or SMux, or reach one server. */
export function DeviceFlows({ device }: { device: string }) {
  const { found, error, flows } = useFlows(`device=${device}`);
  if (!found) return error ? <Failure error={error} /> : <p class="loading">Reading…</p>;
  if (!flows.length) return <Empty>No flow was seen here lately.</Empty>;
  return (
    <div class="scroll" tabIndex={0}>
      <table class="records">
        <thead>
          <tr>
            <th>From</th>
            <th>To VIP</th>
            <th>DIP</th>
            <th class="number">About</th>
            <th class="number">Last</th>
          </tr>
        </thead>
        <tbody>
          {flows.slice(0, SHOWN).map(([one]) => (
            <tr key={ends(one!)}>
              <td>
                {protocolName(one!.protocol)} {one!.source}:{one!.source_port}
              </td>
              <td>
                <a href={to("vips", one!.destination)}>{one!.destination}</a>:{one!.destination_port}
              </td>
              <td>{one!.dip ?? "–"}</td>
              <td class="number">{count(one!.packets)} packets</td>
              <td class="number">{ago(Date.now() / 1000 - one!.last)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <p class="hint">Estimated: 1 packet in {flows[0]![0]!.sampling} is looked at.</p>
    </div>
  );
}

function Flow({ flow, serverOf }: { flow: FlowRecord[]; serverOf: Map<string, string> }) {
  const one = flow[0]!;
  const most = flow.reduce((a, b) => (b.bytes > a.bytes ? b : a));
  // What a DIP answers passes no mux: its server alone has seen it.
  const server = flow.find((each) => each.kind === "server");
  const last = Math.max(...flow.map((each) => each.last));
  const took = Math.max(most.last - most.first, 0.001);
  // At a switch the tunnel may lead to a TIP; who has the flow is known where the flow ends.
  const dip = server?.dip ?? flow.find((each) => each.dip && serverOf.has(each.dip))?.dip ?? one.dip;
  return (
    <tr>
      <td>
        {protocolName(one.protocol)} {one.source}:{one.source_port}
      </td>
      <td class="number">{one.destination_port}</td>
      <td>
        {flow.map((each) => (
          <a key={each.device} href={to("network", "node", each.device)} title={`1 packet in ${each.sampling} is looked at`}>
            <Badge tone={each.kind === "smux" ? "warn" : "info"}>{each.device}</Badge>
          </a>
        ))}
      </td>
      <td>{dip ?? "–"}</td>
      <td class="number">
        {count(most.packets)} packets{took > 1 ? `, ${rate((8 * most.bytes) / took)}` : ""}
      </td>
      <td class="number">
        {server ? `${count(server.reply_packets)} packets${took > 1 ? `, ${rate((8 * server.reply_bytes) / took)}` : ""}` : "–"}
      </td>
      <td class="number">{ago(Date.now() / 1000 - last)}</td>
    </tr>
  );
}
