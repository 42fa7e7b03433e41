// One node: what it is, holds and counts; its logs, packets and a shell; fail and restore.

import { useEffect, useState } from "preact/hooks";
import { get } from "../lib/api";
import { ago, count, rate } from "../lib/format";
import { type BgpSession, peerOf, type Port, sessionOver } from "../lib/ports";
import { to } from "../lib/router";
import { type Known, useKnown } from "../lib/store";
import type { Log, MuxCounters, MuxStatus, Reach, VipRecord } from "../lib/types";
import { Capture } from "../ui/capture";
import { DrainSmux } from "../ui/draining";
import { Badge, Bar, Button, Empty, Failure, Tabs, type Tone } from "../ui/parts";
import { FailRestore } from "../ui/failing";
import { DeviceFlows } from "../ui/flows";
import { Shell } from "../ui/shell";

export const REACH_TONE: Record<Reach, Tone> = {
  unknown: "plain",
  ready: "good",
  unwell: "warn",
  unreachable: "bad",
  lost: "bad",
};
const KINDS: Record<string, string> = {
  core: "Core switch",
  agg: "Agg switch",
  tor: "ToR switch",
  smux: "SMux",
  server: "Server",
  client: "Client",
};

type Tab = "Overview" | "Counters" | "Flows" | "Logs" | "Capture" | "Shell";

function kindOf(name: string, known: Known): string {
  const there = known.layout?.nodes.find((node) => node.name === name);
  const role = known.inventory?.switches.find((s) => s.name === name)?.role;
  return there?.kind ?? role ?? (known.inventory?.smuxes.some((s) => s.name === name) ? "smux" : "server");
}

export function NodePanel({ name, close }: { name: string; close: () => void }) {
  const known = useKnown();
  const [tab, setTab] = useState<Tab>("Overview");
  const mux = known.muxes.get(name);
  const agent = known.agents.get(name);
  const there = known.layout?.nodes.find((node) => node.name === name);
  const failed = known.life?.failed.includes(name) ?? false;
  const kind = kindOf(name, known);
  const isMux = ["core", "agg", "tor", "smux"].includes(kind);
  const names: Tab[] = ["Overview"];
  if (isMux) names.push("Counters");
  if (agent) names.push("Flows");
  if (there) names.push("Logs", "Capture", "Shell");
  if (!there && !agent) {
    return (
      <aside class="panel" aria-label={name}>
        <PanelHead name={name} kind="" close={close} />
        <Empty>There is no node {name}.</Empty>
      </aside>
    );
  }
  return (
    <aside class="panel" aria-label={`${KINDS[kind] ?? kind} ${name}`}>
      <PanelHead name={name} kind={KINDS[kind] ?? kind} close={close}>
        {failed ? (
          <Badge tone="bad">failed on purpose</Badge>
        ) : (
          agent && <Badge tone={REACH_TONE[agent.reach]}>{agent.reach}</Badge>
        )}
        {mux?.draining && <Badge tone="warn">draining</Badge>}
      </PanelHead>
      <div class="actions">
        {there && kind !== "client" && <FailRestore what={name} failed={failed} />}
        {mux?.kind === "smux" && <DrainSmux smux={name} draining={mux.draining} />}
      </div>
      <Tabs names={names} now={tab} choose={setTab} />
      <div class="tab" role="tabpanel" aria-label={tab}>
        {tab === "Overview" && <Overview name={name} known={known} mux={mux} />}
        {tab === "Counters" && <Counters name={name} />}
        {tab === "Flows" && <DeviceFlows device={name} />}
        {tab === "Logs" && <Logs name={name} />}
        {tab === "Capture" && there && <Capture node={name} ports={there.ports} />}
        {tab === "Shell" && <Shell node={name} />}
      </div>
    </aside>
  );
}

export function PanelHead(props: { name: string; kind: string; close: () => void; children?: preact.ComponentChildren }) {
  return (
    <header class="head">
      <div>
        <h2>{props.name}</h2>
        <p>
          {props.kind} {props.children}
        </p>
      </div>
      <button type="button" class="quiet close" onClick={props.close} aria-label="Close">
        ✕
      </button>
    </header>
  );
}

function Overview({ name, known, mux }: { name: string; known: Known; mux: MuxStatus | undefined }) {
  const there = known.layout?.nodes.find((node) => node.name === name);
  const agent = known.agents.get(name);
  const processes = known.life?.processes.filter((process) => process.node === name) ?? [];
  const server = known.inventory?.servers.find((one) => one.name === name);
  const sw = known.inventory?.switches.find((one) => one.name === name);
  const address = there?.address ?? sw?.loopback ?? server?.dips[0];
  return (
    <>
      {agent?.detail && agent.reach !== "ready" && <p class="said">{agent.detail}</p>}
      {mux && mux.health !== "ready" && agent?.reach === "ready" && <p class="said">{mux.health}</p>}
      <dl class="facts">
        {address && <Fact name="Address">{address}</Fact>}
        {mux && <Fact name="Data path">{mux.target}</Fact>}
        {mux && <Fact name="Up for">{ago(mux.uptime_s)}</Fact>}
        {mux && <Fact name="Entries written">{count(mux.writes)}</Fact>}
        {server && <Fact name="ToR"><a href={to("network", "node", server.switch)}>{server.switch}</a></Fact>}
        {server && <Fact name="DIPs">{server.dips[0]} and {server.dips.length - 1} more</Fact>}
      </dl>
      {mux && <CarriedVips name={name} mux={mux} />}
      {mux && Object.keys(mux.tables).length > 0 && <TableUse mux={mux} />}
      {mux ? <Ports mux={mux} known={known} /> : there && <Neighbours ports={there.ports} />}
      {server && <ServedVips dips={server.dips} />}
      {processes.length > 0 && (
        <>
          <h3>Processes</h3>
          <table>
            <thead>
              <tr>
                <th>Process</th>
                <th>State</th>
                <th class="number">PID</th>
                <th class="number">Restarts</th>
              </tr>
            </thead>
            <tbody>
              {processes.map((process) => (
                <tr key={process.name}>
                  <td>{process.name}</td>
                  <td>
                    <Badge tone={process.state === "running" ? "good" : "bad"}>{process.state}</Badge>
                  </td>
                  <td class="number">{process.pid ?? ""}</td>
                  <td class="number">{process.restarts}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </>
      )}
    </>
  );
}

export function Fact({ name, children }: { name: string; children: preact.ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function CarriedVips({ name, mux }: { name: string; mux: MuxStatus }) {
  const known = useKnown();
  if (mux.kind === "smux") return <p class="said">Holds all {count(mux.vips)} VIPs and {count(mux.tips)} TIPs, as every SMux does.</p>;
  const here = known.vips.filter((vip) => vip.switch === name);
  return (
    <>
      <h3>VIPs here</h3>
      {here.length ? (
        <p class="chips">
          {here.slice(0, 40).map((vip) => (
            <a key={vip.address} class="chip" href={to("vips", vip.address)}>
              {vip.address}
            </a>
          ))}
          {here.length > 40 && <span>and {count(here.length - 40)} more</span>}
        </p>
      ) : (
        <Empty>None{mux.tips ? `, but ${mux.tips} TIPs` : ""}.</Empty>
      )}
    </>
  );
}

function ServedVips({ dips }: { dips: string[] }) {
  const [vips, setVips] = useState<VipRecord[] | null>(null);
  useEffect(() => {
    let wanted = true;
    void Promise.all(dips.slice(0, 16).map((dip) => get<VipRecord[]>(`/v1/vips?dip=${dip}&limit=20`).catch(() => []))).then(
      (found) => wanted && setVips(found.flat()),
    );
    return () => {
      wanted = false;
    };
  }, [dips.join()]);
  if (!vips) return null;
  const addresses = [...new Set(vips.map((vip) => vip.spec.address))];
  return (
    <>
      <h3>Serves</h3>
      {addresses.length ? (
        <p class="chips">
          {addresses.map((address) => (
            <a key={address} class="chip" href={to("vips", address)}>
              {address}
            </a>
          ))}
        </p>
      ) : (
        <Empty>No VIP.</Empty>
      )}
    </>
  );
}

const TABLES: Record<string, string> = {
  host: "host (VIPs, TIPs)",
  ecmp: "ECMP slots",
  tunneling: "tunneling",
  acl: "ACL (ports of VIPs)",
  pinned: "pinned flows",
  route: "routes",
};

function TableUse({ mux }: { mux: MuxStatus }) {
  const known = Object.entries(mux.tables).sort(([a], [b]) => Number(b in TABLES) - Number(a in TABLES) || a.localeCompare(b));
  return (
    <>
      <h3>Tables</h3>
      <table>
        <thead>
          <tr>
            <th>Table</th>
            <th class="number">Entries</th>
            <th class="number">Size</th>
            <th>
              <span class="visually-hidden">Share</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {known.map(([table, { used, size }]) => (
            <tr key={table}>
              <td>{TABLES[table] ?? table.replaceAll("_", " ")}</td>
              <td class="number">{count(used)}</td>
              <td class="number">{count(size)}</td>
              <td>
                <Bar share={size ? used / size : 0} label={`${used} of ${size}`} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

function Ports({ mux, known }: { mux: MuxStatus; known: Known }) {
  return (
    <>
      <h3>Ports</h3>
      <table>
        <thead>
          <tr>
            <th>Port</th>
            <th>To</th>
            <th>Link</th>
            <th>BGP</th>
            <th>BFD</th>
            <th class="number">Out, in</th>
          </tr>
        </thead>
        <tbody>
          {mux.ports.map((port) => {
            const session = sessionOver(mux, port);
            const peer = peerOf(mux, port, known.layout);
            const link = known.links.find((one) => one.ends.includes(mux.name) && one.ends.includes(peer));
            const forth = link ? link.bps[link.ends[0] === mux.name ? 0 : 1] : null;
            const back = link ? link.bps[link.ends[0] === mux.name ? 1 : 0] : null;
            return (
              <tr key={port.number}>
                <td>{port.name}</td>
                <td>
                  <a href={to("network", "link", `${mux.name}-${peer}`)}>{peer}</a>
                </td>
                <PortCells port={port} session={session} />
                <td class="number">
                  {forth !== null && back !== null && (
                    <>
                      {rate(forth)}
                      <br />
                      {rate(back)}
                    </>
                  )}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </>
  );
}

/** Whether a port is up, and how its sessions stand: three cells of a row. */
export function PortCells({ port, session }: { port: Port; session: BgpSession | undefined }) {
  return (
    <>
      <td>
        <Badge tone={port.up ? "good" : "bad"}>{port.up ? "up" : "down"}</Badge>
      </td>
      <td>
        {session && (
          <span title={session.since && `since ${session.since}`}>
            <Badge tone={session.established ? "good" : "bad"}>{session.state.split(" ")[0]!.toLowerCase()}</Badge>
          </span>
        )}
      </td>
      <td>{session?.bfd && <Badge tone={session.bfd === "Up" ? "good" : "bad"}>{session.bfd.toLowerCase()}</Badge>}</td>
    </>
  );
}

function Neighbours({ ports }: { ports: Record<string, string> }) {
  return (
    <>
      <h3>Ports</h3>
      <p class="chips">
        {Object.entries(ports).map(([port, peer]) => (
          <a key={port} class="chip" href={to("network", "node", peer)}>
            {port} to {peer}
          </a>
        ))}
      </p>
    </>
  );
}

function Counters({ name }: { name: string }) {
  const [counters, setCounters] = useState<MuxCounters | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    let wanted = true;
    const read = () =>
      get<MuxCounters>(`/v1/muxes/${name}/counters`).then(
        (found) => wanted && (setCounters(found), setError(null)),
        (thrown: unknown) => wanted && setError(thrown),
      );
    void read();
    const timer = setInterval(() => void read(), 2000);
    return () => {
      wanted = false;
      clearInterval(timer);
    };
  }, [name]);
  if (!counters) return error ? <Failure error={error} /> : <p class="loading">Reading…</p>;
  const drops = Object.entries(counters.drops).filter(([, packets]) => packets > 0);
  const vips = counters.vips.filter((vip) => vip.packets > 0).sort((a, b) => b.packets - a.packets);
  return (
    <>
      <Failure error={error} />
      <h3>VIPs and TIPs</h3>
      {vips.length ? (
        <table>
          <thead>
            <tr>
              <th>VIP or TIP</th>
              <th class="number">Packets</th>
              <th class="number">Bytes</th>
            </tr>
          </thead>
          <tbody>
            {vips.slice(0, 200).map((vip) => (
              <tr key={`${vip.address}${vip.protocol}${vip.port}`}>
                <td>
                  {vip.address}
                  {vip.port ? ` ${vip.protocol}/${vip.port}` : ""}
                </td>
                <td class="number">{count(vip.packets)}</td>
                <td class="number">{count(vip.bytes)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <Empty>No packet to a VIP yet.</Empty>
      )}
      <h3>Drops</h3>
      {drops.length ? (
        <table>
          <thead>
            <tr>
              <th>Reason</th>
              <th class="number">Packets</th>
            </tr>
          </thead>
          <tbody>
            {drops.map(([reason, packets]) => (
              <tr key={reason}>
                <td>{reason.replaceAll("_", " ")}</td>
                <td class="number">{count(packets)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <Empty>None.</Empty>
      )}
    </>
  );
}

function Logs({ name }: { name: string }) {
  const [logs, setLogs] = useState<Log[] | null>(null);
  const [error, setError] = useState<unknown>(null);
  const read = () => get<Log[]>(`/testbed/v1/nodes/${name}/logs`).then(setLogs);
  useEffect(() => void read().catch(setError), [name]);
  return (
    <>
      <Button looks does={read} failed={setError}>
        Read again
      </Button>
      <Failure error={error} />
      {logs?.map((log) => (
        <details key={log.name} open={logs.length < 3}>
          <summary>{log.name}</summary>
          <pre class="log" tabIndex={0}>
            {log.lines.join("\n") || "(empty)"}
          </pre>
        </details>
      ))}
    </>
  );
}
