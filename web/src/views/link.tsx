// One link: what travels on it, and what can be done to it.

import { count, rate } from "../lib/format";
import { peerOf, sessionOver } from "../lib/ports";
import { to } from "../lib/router";
import { useKnown } from "../lib/store";
import { Capture } from "../ui/capture";
import { FailRestore } from "../ui/failing";
import { Badge, Bar, Empty } from "../ui/parts";
import { Fact, PanelHead, PortCells } from "./node";

export function LinkPanel({ name, close }: { name: string; close: () => void }) {
  const known = useKnown();
  const [one = "", other = ""] = name.split("-");
  const link = known.links.find((each) => each.ends.includes(one) && each.ends.includes(other));
  const failed = known.life?.failed.find((what) => [`${one}-${other}`, `${other}-${one}`].includes(what));
  const there = known.layout?.nodes.find((node) => node.name === one);
  const port = Object.entries(there?.ports ?? {}).find(([, peer]) => peer === other)?.[0];
  const turned = link?.ends[0] === other;
  const bps = link ? (turned ? [link.bps[1], link.bps[0]] : link.bps) : null;
  return (
    <aside class="panel" aria-label={`Link ${name}`}>
      <PanelHead name={name} kind="Link" close={close}>
        {failed ? (
          <Badge tone="bad">failed on purpose</Badge>
        ) : (
          link && link.up !== null && <Badge tone={link.up ? "good" : "bad"}>{link.up ? "up" : "down"}</Badge>
        )}
      </PanelHead>
      {!link && !port && <Empty>There is no link {name}.</Empty>}
      {port && (
        <div class="actions">
          <FailRestore what={failed ?? name} failed={Boolean(failed)} />
        </div>
      )}
      <dl class="facts">
        <Fact name="Ends">
          <a href={to("network", "node", one)}>{one}</a> and <a href={to("network", "node", other)}>{other}</a>
        </Fact>
        {link?.capacity_bps && <Fact name="Capacity">{rate(link.capacity_bps)}</Fact>}
      </dl>
      {bps && (
        <table>
          <thead>
            <tr>
              <th>Direction</th>
              <th class="number">Load</th>
              <th>
                <span class="visually-hidden">Share</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {[
              [one, other, bps[0]!] as const,
              [other, one, bps[1]!] as const,
            ].map(([from, end, load]) => (
              <tr key={from}>
                <td>
                  {from} to {end}
                </td>
                <td class="number">{rate(load)}</td>
                <td>
                  {link?.capacity_bps && <Bar share={load / link.capacity_bps} label={rate(load)} />}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <Ends ends={[one, other]} />
      {port && (
        <>
          <h3>Packets</h3>
          <Capture node={one} ports={{ [port]: other }} />
        </>
      )}
    </aside>
  );
}

/** What the muxes at the ends say of their ports: state, sessions, counters. */
function Ends({ ends }: { ends: [string, string] }) {
  const known = useKnown();
  const rows = [ends, [ends[1], ends[0]] as const].flatMap(([name, peer]) => {
    const mux = known.muxes.get(name);
    if (!mux) return [];
    const port = mux.ports.find((each) => peerOf(mux, each, known.layout) === peer);
    return port ? [{ name, port, session: sessionOver(mux, port) }] : [];
  });
  if (!rows.length) return null;
  return (
    <>
      <h3>Ports</h3>
      <table>
        <thead>
          <tr>
            <th>Port</th>
            <th>Link</th>
            <th>BGP</th>
            <th>BFD</th>
            <th class="number">Bytes out</th>
            <th class="number">Bytes in</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(({ name, port, session }) => (
            <tr key={name}>
              <td>
                {name} {port.name}
              </td>
              <PortCells port={port} session={session} />
              <td class="number">{count(port.sent_bytes)}</td>
              <td class="number">{count(port.received_bytes)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}
