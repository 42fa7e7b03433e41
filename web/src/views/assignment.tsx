// What the engine would do and why, and having it done.

import { useEffect, useState } from "preact/hooks";
import { call, get } from "../lib/api";
import { byName, count, percent, rate } from "../lib/format";
import { to } from "../lib/router";
import { type Known, useKnown } from "../lib/store";
import type { AssignmentResult, Explanation, Placement, Report, Step } from "../lib/types";
import { Badge, Bar, Button, Card, Empty, Failure } from "../ui/parts";

interface Outcome {
  result: AssignmentResult;
  moves: { address: string; from: string | null; to: string | null }[];
  steps: Step[];
}

async function compute(strategy: string): Promise<Outcome> {
  const [result, now] = await Promise.all([
    call<AssignmentResult>("POST", "/v1/assignments", { strategy }),
    get<{ placements: Placement[] }>("/v1/assignment"),
  ]);
  const before = new Map(now.placements.map((place) => [place.address, place.switch]));
  const moves = result.placements
    .filter((place) => before.has(place.address) && before.get(place.address) !== place.switch)
    .map((place) => ({ address: place.address, from: before.get(place.address)!, to: place.switch }));
  const { steps } = await call<{ steps: Step[] }>("POST", "/v1/assignment/plan", { placements: result.placements });
  return { result, moves, steps };
}

export function AssignmentView() {
  const known = useKnown();
  const [names, setNames] = useState<string[]>([]);
  const [strategy, setStrategy] = useState("sticky");
  const [outcomes, setOutcomes] = useState<Map<string, Outcome>>(new Map());
  const [failure, setFailure] = useState<unknown>(null);
  const [report, setReport] = useState<Report | null>(null);
  useEffect(() => void get<string[]>("/v1/strategies").then(setNames, setFailure), []);
  const outcome = outcomes.get(strategy);
  const look = async (name: string) => {
    const found = await compute(name);
    setOutcomes((before) => new Map(before).set(name, found));
    setReport(null);
  };
  return (
    <div class="columns">
      <div>
        <Card title="What the engine would do">
          <p class="hint">Nothing is changed before “Carry out”. VIPs that were placed by hand stay where they are.</p>
          <div class="row">
            <label class="inline">
              Strategy{" "}
              <select value={strategy} onChange={(event) => setStrategy(event.currentTarget.value)}>
                {(names.length ? names : [strategy]).map((name) => (
                  <option key={name}>{name}</option>
                ))}
              </select>
            </label>
            <Button kind="primary" title="As duet assignment plan does" does={() => look(strategy)} failed={setFailure}>
              Compute
            </Button>
            <Button
              failed={setFailure}
              title="One after the other"
              does={async () => {
                for (const name of names) await look(name);
              }}
            >
              Compare all
            </Button>
          </div>
          <Failure error={failure} />
          {outcomes.size > 1 && <Comparison outcomes={outcomes} choose={setStrategy} now={strategy} />}
          {outcome ? (
            <Result
              outcome={outcome}
              carryOut={async () => {
                setReport(await call<Report>("PUT", "/v1/assignment", { placements: outcome.result.placements }));
                setOutcomes(new Map());
              }}
              failed={setFailure}
            />
          ) : (
            !report && <Empty>Compute one to see what it would move.</Empty>
          )}
          {report && (
            <div class="said" role="status">
              <p>
                {report.done} steps done, {count(report.writes)} table entries written
              </p>
              {report.failed.map((text) => (
                <p key={text} class="bad">
                  {text}
                </p>
              ))}
            </div>
          )}
        </Card>
      </div>
      <div>
        <Utilization known={known} />
      </div>
    </div>
  );
}

function Comparison(props: { outcomes: Map<string, Outcome>; now: string; choose: (name: string) => void }) {
  return (
    <table>
      <thead>
        <tr>
          <th>Strategy</th>
          <th class="number">Traffic on HMuxes</th>
          <th class="number">Moves</th>
          <th class="number">/32 routes</th>
        </tr>
      </thead>
      <tbody>
        {[...props.outcomes].map(([name, { result, moves }]) => (
          <tr key={name} aria-selected={name === props.now}>
            <td>
              <button type="button" class="quiet" onClick={() => props.choose(name)}>
                {name}
              </button>
            </td>
            <td class="number">{percent(result.hmux_share)}</td>
            <td class="number">{moves.length}</td>
            <td class="number">{result.routes}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Result(props: { outcome: Outcome; carryOut: () => Promise<void>; failed: (error: unknown) => void }) {
  const { result, moves, steps } = props.outcome;
  const waves = [...new Set(steps.map((step) => step.wave))];
  return (
    <>
      <p class="where">
        <strong>{percent(result.hmux_share)}</strong> of the traffic on HMuxes, {count(result.routes)} /32 routes
      </p>
      {moves.length ? (
        <>
          <table>
            <thead>
              <tr>
                <th>VIP or TIP</th>
                <th>From</th>
                <th>To</th>
                <th>Why</th>
              </tr>
            </thead>
            <tbody>
              {moves.slice(0, 100).map((move) => (
                <tr key={move.address}>
                  <td>
                    <a href={to("vips", move.address)}>{move.address}</a>
                  </td>
                  <td>{move.from ?? "SMuxes"}</td>
                  <td>{move.to ?? "SMuxes"}</td>
                  <td>
                    <Reason address={move.address} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
          <p class="hint">
            {steps.length} steps: {waves.map((wave) => `${wave} ${steps.filter((s) => s.wave === wave).length}`).join(", ")}
          </p>
        </>
      ) : (
        <Empty>Everything is where it would be put.</Empty>
      )}
      {Object.entries(result.problems).map(([address, why]) => (
        <p key={address} class="bad">
          {address} is left as it is: {why}
        </p>
      ))}
      <details>
        <summary>Why every VIP goes where it goes</summary>
        <ul class="flows">
          {result.placements.slice(0, 60).map((place) => (
            <li key={place.address}>
              <a href={to("vips", place.address)}>{place.address}</a> on {place.switch ?? "the SMuxes"}: <Reason address={place.address} />
            </li>
          ))}
        </ul>
      </details>
      <div class="actions">
        <Button kind="primary" title="As duet assignment run does" does={props.carryOut} failed={props.failed} disabled={!moves.length}>
          Carry out
        </Button>
      </div>
    </>
  );
}

function Reason({ address }: { address: string }) {
  const [found, setFound] = useState<Explanation | null>(null);
  useEffect(() => void get<Explanation>(`/v1/explanations/${address}`).then(setFound, () => undefined), [address]);
  if (!found) return null;
  return (
    <>
      {found.reason}
      {found.bottleneck && (
        <>
          ; bottleneck {found.bottleneck} at {percent(found.utilization ?? 0)}
        </>
      )}
      {found.runner_up && (
        <>
          ; runner-up {found.runner_up} at {percent(found.runner_up_utilization ?? 0)}
        </>
      )}
    </>
  );
}

function Utilization({ known }: { known: Known }) {
  const muxes = [...known.muxes.values()].filter((mux) => mux.kind === "hmux").sort((a, b) => byName(a.name, b.name));
  const links = [...known.links]
    .filter((link) => link.capacity_bps)
    .sort((a, b) => Math.max(...b.bps) - Math.max(...a.bps))
    .slice(0, 12);
  return (
    <>
      <Card title="Tables">
        <table>
          <thead>
            <tr>
              <th>Switch</th>
              <th class="number">VIPs</th>
              <th>Tunneling</th>
              <th>ECMP</th>
            </tr>
          </thead>
          <tbody>
            {muxes.map((mux) => (
              <tr key={mux.name}>
                <td>
                  <a href={to("network", "node", mux.name)}>{mux.name}</a>
                </td>
                <td class="number">{mux.vips + mux.tips}</td>
                {["tunneling", "ecmp"].map((table) => {
                  const use = mux.tables[table];
                  return <td key={table}>{use && <Bar share={use.used / use.size} label={`${use.used} of ${use.size}`} />}</td>;
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </Card>
      <Card title="Busiest links">
        <table>
          <tbody>
            {links.map((link) => (
              <tr key={link.ends.join("-")}>
                <td>
                  <a href={to("network", "link", link.ends.join("-"))}>{link.ends.join(" – ")}</a>{" "}
                  {link.up === false && <Badge tone="bad">down</Badge>}
                </td>
                <td class="number">{rate(Math.max(...link.bps))}</td>
                <td>
                  <Bar share={Math.max(...link.bps) / link.capacity_bps!} label={`of ${rate(link.capacity_bps!)}`} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </Card>
    </>
  );
}
