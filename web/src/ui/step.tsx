// What happened to a packet at one place: its arrival, a step, its departure.

import { changesOf, headersOf, installedBy, picksOf, shown, shortName, wanted } from "../lib/tracing";
import type { Hop, PacketStep, PacketTrace, Value } from "../lib/types";
import { Badge, Empty } from "./parts";
import { SourceView } from "./source";

export function titleOf(step: PacketStep): string {
  switch (step.kind) {
    case "state":
      return `parser state ${step.name}`;
    case "branch":
      return `if (${step.name})`;
    case "table":
      return step.key.length ? step.name : statement(step);
    default:
      return step.name || step.kind;
  }
}

/** A statement outside of tables, by its text where p4c gives some that says anything. */
function statement(step: PacketStep): string {
  const line = step.action_line ?? step.line;
  if (!line) return step.name;
  return /^\w/.test(line.text) ? line.text : `statement of ${line.file}, line ${line.line}`;
}

export function verdictOf(step: PacketStep) {
  if (step.kind === "branch") return <Badge tone={step.taken ? "good" : "plain"}>{step.taken ? "holds" : "does not hold"}</Badge>;
  if (step.kind === "table" && step.key.length) return <Badge tone={step.hit ? "good" : "warn"}>{step.hit ? "hit" : "miss"}</Badge>;
  if (step.kind === "drop") return <Badge tone="bad">dropped</Badge>;
  return null;
}

export function StepView({ trace, step }: { trace: PacketTrace; step: PacketStep }) {
  const line = step.line ?? step.action_line;
  const changes = changesOf(step.changes);
  const put = installedBy(step);
  const elsewhere = step.action_line && line && step.action_line.file !== line.file ? step.action_line : null;
  return (
    <>
      <h3 class="step-title">
        {titleOf(step)} {verdictOf(step)}
      </h3>
      {step.key.length > 0 && (
        <table>
          <thead>
            <tr>
              <th>Key</th>
              <th>Match</th>
              <th>The packet has</th>
              <th>The entry wants</th>
            </tr>
          </thead>
          <tbody>
            {step.key.map((one) => (
              <tr key={one.field}>
                <td>{one.field}</td>
                <td>{one.kind}</td>
                <td>
                  <code>{shown(one.field, one.value)}</code>
                </td>
                <td>{one.wanted === null ? (one.kind === "exact" && step.hit ? "the same" : "–") : <code>{wanted(one.field, one.wanted)}</code>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {(put || step.priority) && (
        <p class="hint">
          Entry {put}
          {step.priority ? `${put ? "; " : ""}priority ${step.priority}` : ""}
        </p>
      )}
      {step.action && step.key.length > 0 && (
        <p class="action">
          <span class="soft">does</span> <code>{step.action}</code>
        </p>
      )}
      {step.arguments.length > 0 && <Values values={step.arguments} />}
      {step.counters.length > 0 && <p class="hint">Counts in {step.counters.join(", ")}</p>}
      {changes.length > 0 && (
        <>
          <h4>Changes</h4>
          <dl class="facts">
            {changes.map((one) => (
              <div key={one.field}>
                <dt>{one.field}</dt>
                <dd>
                  <code>{one.before ? `${one.before} → ${one.after}` : one.after}</code>
                </dd>
              </div>
            ))}
          </dl>
        </>
      )}
      {line ? (
        <SourceView kind={trace.kind} line={line} also={step.action_line} />
      ) : (
        <p class="hint">No line of the program is known for this.</p>
      )}
      {elsewhere && <SourceView kind={trace.kind} line={elsewhere} also={null} />}
    </>
  );
}

function Values({ values }: { values: Value[] }) {
  return (
    <dl class="facts">
      {values.map((one) => (
        <div key={one.name}>
          <dt>{one.name}</dt>
          <dd>
            <code>{shown(one.name, one.value)}</code>
          </dd>
        </div>
      ))}
    </dl>
  );
}

export function Arrival({ hop }: { hop: Hop }) {
  const { trace } = hop;
  if (!trace) return <p>{hop.note || "It passed here."}</p>;
  return (
    <>
      <h3 class="step-title">
        came in by {/^\d/.test(trace.ingress) ? "port " : ""}
        {trace.ingress}
        {hop.came_from && ` from ${hop.came_from}`}
      </h3>
      <p class="hint">
        {trace.length} bytes; in {hop.node} for {((trace.ended_ns - trace.began_ns) / 1000).toFixed(0)} µs, traced
      </p>
      <Headers values={trace.headers_in} before={null} />
    </>
  );
}

export function Departure({ hop }: { hop: Hop }) {
  const { trace } = hop;
  if (!trace) return <Empty>Nothing more is known.</Empty>;
  const picks = picksOf(trace);
  const dropped = trace.verdict === "dropped";
  return (
    <>
      <h3 class="step-title">
        {dropped ? (
          <Badge tone="bad">dropped</Badge>
        ) : trace.verdict === "passed" ? (
          <Badge tone="good">{trace.kind === "server" ? "delivered to the DIP" : "handed to the kernel"}</Badge>
        ) : (
          <>
            <Badge tone="good">{trace.verdict}</Badge> {trace.egress && `by ${/^\d/.test(trace.egress) ? "port " : ""}${trace.egress}`}
            {hop.went_to && ` to ${hop.went_to}`}
          </>
        )}
      </h3>
      {trace.reason && <p class={dropped ? "bad" : "hint"}>{trace.reason}</p>}
      {picks.length > 0 && (
        <>
          <h4>Slots and hash</h4>
          <Values values={picks} />
        </>
      )}
      <Headers values={trace.headers_out} before={trace.headers_in} />
    </>
  );
}

function Headers({ values, before }: { values: Value[]; before: Value[] | null }) {
  const earlier = new Map(before?.map((one) => [one.name, one.value]));
  return (
    <div class="headers">
      {headersOf(values).map(([header, fields]) => (
        <section key={header}>
          <h4>{header}</h4>
          <dl>
            {fields.map((one) => {
              const was = earlier.get(`${header}.${one.name}`);
              const changed = before !== null && was !== one.value;
              return (
                <div key={one.name} class={changed ? "changed" : ""}>
                  <dt>{shortName(one.name)}</dt>
                  <dd>
                    <code>{shown(one.name, one.value)}</code>
                    {changed && <span class="visually-hidden"> changed</span>}
                  </dd>
                </div>
              );
            })}
          </dl>
        </section>
      ))}
    </div>
  );
}
