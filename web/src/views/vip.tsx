// One VIP: where it lives and why, its slots and DIPs, its connections, its history.

import { useEffect, useState } from "preact/hooks";
import { call, get } from "../lib/api";
import { count, duration, percent, rate } from "../lib/format";
import { allDips, servedBy, serverOf } from "../lib/highlight";
import { pictureOf } from "../lib/picture";
import { useHighlight, useRecord } from "../lib/record";
import { go, to } from "../lib/router";
import { type Known, mayWrite, useKnown } from "../lib/store";
import type { Connections, Group, HealthCheck, Report, VipRecord, Why } from "../lib/types";
import { EventList } from "../ui/events";
import { FlowsCard, protocolName } from "../ui/flows";
import { Badge, Button, Card, Dialog, Empty, Failure } from "../ui/parts";
import { Topology } from "../ui/topology";

export function VipView({ address }: { address: string }) {
  const known = useKnown();
  const { record, error } = useRecord(address, known);
  const highlight = useHighlight(address, known);
  const [failure, setFailure] = useState<unknown>(null);
  if (!record || !known.inventory) {
    return (
      <Card title={address}>
        {error ? <Failure error={error} /> : <p class="loading">Reading…</p>}
        <p>
          <a href={to("vips")}>All VIPs</a>
        </p>
      </Card>
    );
  }
  const history = known.events.filter((event) => event.subject === address || event.detail.vip === address);
  return (
    <div class="columns">
      <div>
        <Card
          title={
            <>
              <a class="up" href={to("vips")}>VIPs</a> {address} <small>{record.spec.name}</small>
            </>
          }
          tools={mayWrite() && <Tools record={record} failed={setFailure} />}
        >
          <Failure error={failure} />
          <Where record={record} known={known} failed={setFailure} />
        </Card>
        <Card title="Way of its traffic">
          <div class="scroll" tabIndex={-1}>
            <Topology inventory={known.inventory} layout={known.layout} picture={pictureOf(known)} highlight={highlight} />
          </div>
          <p class="hint">
            <a href={`${to("trace")}?vip=${address}`}>Trace a packet</a>{" "}
            {highlight?.flows.size
              ? "Measured in the last 20 s, over the shortest ways that ECMP shares out."
              : "No traffic in the last 20 s."}
          </p>
        </Card>
        <FlowsCard key={address} vip={address} serverOf={serverOf(known.inventory)} />
        <Card title="History">
          <EventList events={history} limit={50} />
        </Card>
      </div>
      <div>
        <Dips record={record} known={known} failed={setFailure} />
        <Slots record={record} />
      </div>
    </div>
  );
}

type Failed = (error: unknown) => void;

function Tools({ record, failed }: { record: VipRecord; failed: Failed }) {
  const [asking, setAsking] = useState(false);
  const address = record.spec.address;
  return (
    <>
      <a class="button" href={to("vips", address, "change")}>
        Change
      </a>
      <Button kind="danger" looks does={() => setAsking(true)}>
        Remove
      </Button>
      {asking && (
        <Dialog title={`Remove VIP ${address}?`} close={() => setAsking(false)}>
          <p>Its {allDips(record).length} DIPs get no more connections through it.</p>
          <div class="actions">
            <Button
              kind="danger"
              does={async () => {
                await call("DELETE", `/v1/vips/${address}`, undefined, record.revision);
                go("vips");
              }}
              failed={(error) => {
                failed(error);
                if (error) setAsking(false);
              }}
            >
              Remove it
            </Button>
            <button type="button" onClick={() => setAsking(false)}>
              Keep it
            </button>
          </div>
        </Dialog>
      )}
    </>
  );
}

function Where({ record, known, failed }: { record: VipRecord; known: Known; failed: Failed }) {
  const address = record.spec.address;
  const [why, setWhy] = useState<Why | null>(null);
  const [target, setTarget] = useState("");
  const [report, setReport] = useState<Report | null>(null);
  const newest = known.events.at(-1)?.id;
  useEffect(() => {
    let wanted = true;
    get<Why>(`/v1/vips/${address}/why`).then((found) => wanted && setWhy(found), () => undefined);
    return () => {
      wanted = false;
    };
  }, [address, record, newest]);
  const bps = known.traffic.filter((s) => s.vip === address).reduce((sum, s) => sum + s.bps, 0);
  const switches = known.inventory?.switches ?? [];
  return (
    <>
      <p class="where">
        Lives on <strong>{record.switch ?? "the SMuxes"}</strong>
        {record.returning && (
          <>
            , waits for <strong>{record.returning}</strong>
          </>
        )}{" "}
        <Badge>{record.held ? "by hand" : "by the engine"}</Badge> {bps > 0 && <Badge tone="info">{rate(bps)}</Badge>}
      </p>
      {why && (
        <ul class="why" aria-label="Why">
          {why.reasons.map((reason) => (
            <li key={reason}>{reason}</li>
          ))}
          {why.waits_for.map((what) => (
            <li key={what} class="warn">
              waits for {what}
            </li>
          ))}
          {why.problems.map((problem) => (
            <li key={problem} class="bad">
              failed last: {problem}
            </li>
          ))}
          {why.retry_in_s !== null && <li>looked at again in {why.retry_in_s.toFixed(1)} s</li>}
        </ul>
      )}
      <div class="row">
        <label class="inline">
          Move it to{" "}
          <select value={target} onChange={(event) => setTarget(event.currentTarget.value)} disabled={!mayWrite()}>
            <option value="">choose</option>
            <option value="smux" disabled={!record.switch}>
              the SMuxes
            </option>
            {switches.map((one) => (
              <option key={one.name} value={one.name} disabled={one.name === record.switch}>
                {one.name}
              </option>
            ))}
          </select>
        </label>
        <Button
          kind="primary"
          disabled={!target}
          failed={failed}
          does={async () => {
            const to = target === "smux" ? null : target;
            setReport(await call<Report>("POST", `/v1/vips/${address}/migrate`, { switch: to }, record.revision));
            setTarget("");
          }}
        >
          Migrate
        </Button>
        {record.held && (
          <Button failed={failed} does={() => call("POST", `/v1/vips/${address}/release`, undefined, record.revision)}>
            Release to the engine
          </Button>
        )}
      </div>
      {report && (
        <div class="said" role="status">
          <p>
            {report.done} steps, {count(report.writes)} table entries written
            {Object.entries(report.wave_ms).map(([wave, ms]) => `; ${wave} ${duration(ms)}`)}
          </p>
          {report.failed.map((text) => (
            <p key={text} class="bad">
              {text}
            </p>
          ))}
        </div>
      )}
    </>
  );
}

function sharesOf(group: Group | null | undefined): Map<string, number> {
  const shares = new Map<string, number>();
  for (const slot of group?.slots ?? []) {
    const owner = group!.members[slot]!.address;
    shares.set(owner, (shares.get(owner) ?? 0) + 1);
  }
  return shares;
}

function Dips({ record, known, failed }: { record: VipRecord; known: Known; failed: Failed }) {
  const address = record.spec.address;
  const serving = servedBy(record);
  const at = known.inventory ? serverOf(known.inventory) : new Map<string, string>();
  const down = new Set(known.status?.dips_down ?? []);
  const [shown, setShown] = useState<string | null>(null);
  const [all, setAll] = useState(false);
  const dips = allDips(record);
  const groups = [record.layout.group, ...record.layout.ports.map((p) => p.group), ...record.tips.map((t) => t.tip.group)];
  const shares = new Map<string, { own: number; of: number }>();
  for (const group of groups) {
    for (const [dip, own] of sharesOf(group)) if (!shares.has(dip)) shares.set(dip, { own, of: group!.slots.length });
  }
  const ports = new Map<string, string[]>();
  for (const group of record.spec.ports) {
    for (const dip of group.dips) ports.set(dip.address, [...(ports.get(dip.address) ?? []), `${group.protocol}/${group.port}`]);
  }
  return (
    <Card title={<>DIPs <small>{count(dips.length)}</small></>}>
      <table>
        <thead>
          <tr>
            <th>DIP</th>
            <th>Server</th>
            <th class="number">Weight</th>
            <th class="number">Slots</th>
            <th>State</th>
            <th>
              <span class="visually-hidden">Actions</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {dips.slice(0, all ? dips.length : 24).map((dip) => {
            const server = at.get(dip.host ?? dip.address);
            const share = shares.get(dip.address);
            const drained = dip.weight === 0;
            const out = !serving.has(dip.address);
            return (
              <>
                <tr key={dip.address}>
                  <td>
                    {dip.address}
                    {ports.has(dip.address) && <small> {ports.get(dip.address)!.join(", ")}</small>}
                  </td>
                  <td>{server && <a href={to("network", "node", server)}>{server}</a>}</td>
                  <td class="number">{dip.weight ?? 1}</td>
                  <td class="number">{share ? `${share.own} of ${share.of}` : "0"}</td>
                  <td>
                    {down.has(dip.address) && out ? (
                      <Badge tone="bad">down</Badge>
                    ) : drained ? (
                      <Badge tone="warn">draining</Badge>
                    ) : out ? (
                      <Badge tone="warn">out</Badge>
                    ) : (
                      <Badge tone="good">serving</Badge>
                    )}
                  </td>
                  <td class="tight">
                    <button
                      type="button"
                      class="quiet"
                      aria-expanded={shown === dip.address}
                      onClick={() => setShown(shown === dip.address ? null : dip.address)}
                    >
                      Connections
                    </button>
                    <Button
                      kind="quiet"
                      disabled={drained}
                      title="No new flows; those it has go on"
                      failed={failed}
                      does={() => call("POST", `/v1/vips/${address}/dips/${dip.address}/drain`, undefined, record.revision)}
                    >
                      Drain
                    </Button>
                  </td>
                </tr>
                {shown === dip.address && (
                  <tr key={`${dip.address} flows`}>
                    <td colSpan={6}>
                      <Flows vip={address} dip={dip.address} />
                    </td>
                  </tr>
                )}
              </>
            );
          })}
        </tbody>
      </table>
      {!all && dips.length > 24 && (
        <button type="button" onClick={() => setAll(true)}>
          Show all {count(dips.length)}
        </button>
      )}
      {record.spec.health && <p class="hint">Checked by {checkText(record.spec.health)}.</p>}
      {record.spec.ports.map(
        (group) =>
          group.health && (
            <p key={`${group.protocol}${group.port}`} class="hint">
              Those of {group.protocol}/{group.port} by {checkText(group.health)}.
            </p>
          ),
      )}
      {record.spec.snat && <p class="hint">Its DIPs connect out with the VIP as source (SNAT).</p>}
    </Card>
  );
}

function checkText(check: HealthCheck): string {
  const path = ["http", "https"].includes(check.kind) ? `, ${check.path ?? "/"}` : "";
  return `${check.kind} on port ${check.port}${path}, every ${check.interval_ms ?? 1000} ms`;
}

function Flows({ vip, dip }: { vip: string; dip: string }) {
  const [found, setFound] = useState<Connections | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => void get<Connections>(`/v1/vips/${vip}/flows?dip=${dip}`).then(setFound, setError), [vip, dip]);
  if (error) return <Failure error={error} />;
  if (!found) return <p class="loading">Asking the server…</p>;
  return (
    <>
      {found.silent.length > 0 && <p class="bad">{found.silent.join(", ")} did not answer.</p>}
      {found.flows.length ? (
        <ul class="flows">
          {found.flows.slice(0, 200).map((flow) => (
            <li key={`${flow.protocol}${flow.source}${flow.source_port}${flow.destination_port}`}>
              {protocolName(flow.protocol)} {flow.source}:{flow.source_port} to port {flow.destination_port}
            </li>
          ))}
        </ul>
      ) : (
        <Empty>No live connection through this VIP.</Empty>
      )}
    </>
  );
}

const HUES = 12;

function Slots({ record }: { record: VipRecord }) {
  const groups: [string, Group][] = [];
  if (record.layout.group) groups.push(["all ports", record.layout.group]);
  for (const port of record.layout.ports) groups.push([`${port.protocol}/${port.port}`, port.group]);
  for (const { tip, switch: home } of record.tips) groups.push([`TIP ${tip.address} on ${home ?? "the SMuxes"}`, tip.group]);
  return (
    <Card title="Slots">
      {groups.map(([name, group]) => {
        const shares = sharesOf(group);
        return (
          <figure class="slots" key={name}>
            <figcaption>
              {name}: {count(group.slots.length)} slots over {count(shares.size)} {shares.size === 1 ? "member" : "members"}
            </figcaption>
            <div class="slot-row" role="img" aria-label={[...shares].slice(0, 12).map(([dip, n]) => `${dip} has ${n}`).join(", ")}>
              {group.slots.slice(0, 512).map((slot, index) => (
                <i key={index} class={`hue${slot % HUES}`} title={`slot ${index}: ${group.members[slot]!.address}`} />
              ))}
            </div>
            {shares.size <= 12 && (
              <ul class="keys">
                {group.members.map(
                  (member, index) =>
                    shares.has(member.address) && (
                      <li key={member.address}>
                        <i class={`hue${index % HUES}`} /> {member.address} {percent(shares.get(member.address)! / group.slots.length)}
                      </li>
                    ),
                )}
              </ul>
            )}
          </figure>
        );
      })}
      {record.layout.pinned.length > 0 && (
        <>
          <h3>Pinned flows</h3>
          <ul class="flows">
            {record.layout.pinned.slice(0, 100).map((flow) => (
              <li key={`${flow.source}${flow.source_port}`}>
                {protocolName(flow.protocol)} {flow.source}:{flow.source_port} stays on {flow.dip}
              </li>
            ))}
          </ul>
        </>
      )}
    </Card>
  );
}
