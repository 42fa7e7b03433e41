// Experiments: started, watched, and what came out.

import { useEffect, useState } from "preact/hooks";
import { call, get } from "../lib/api";
import { ago, clock, count } from "../lib/format";
import { mayWrite, useKnown } from "../lib/store";
import type { Experiment, ExperimentOption, ExperimentRun, Experiments } from "../lib/types";
import { Badge, Button, Card, Empty, Failure, Field } from "../ui/parts";

const LOOK_MS = 1000;
const PATH = "/testbed/v1/experiments";

function useExperiments(): { found: Experiments | null; error: unknown; look: () => Promise<void> } {
  const [found, setFound] = useState<Experiments | null>(null);
  const [error, setError] = useState<unknown>(null);
  const look = async () => {
    try {
      setFound(await get<Experiments>(PATH));
      setError(null);
    } catch (thrown) {
      setError(thrown);
    }
  };
  useEffect(() => {
    void look();
    const timer = setInterval(() => !document.hidden && void look(), LOOK_MS);
    return () => clearInterval(timer);
  }, []);
  return { found, error, look };
}

export function ExperimentsView() {
  const known = useKnown();
  const { found, error, look } = useExperiments();
  const [chosen, setChosen] = useState("");
  if (known.session && !known.session.testbed) {
    return (
      <Card title="Experiments">
        <Empty>Experiments are made on testbeds, and there is none at this address.</Empty>
      </Card>
    );
  }
  if (!found) return error ? <Failure error={error} /> : <p class="loading">Looking…</p>;
  const now = found.experiments.find((one) => one.name === chosen) ?? found.experiments.find((one) => one.name === found.run?.name) ?? found.experiments[0]!;
  return (
    <div class="columns">
      <div>
        <Card title="Experiments">
          <Failure error={error} />
          <div class="choices" role="group" aria-label="Experiment">
            {found.experiments.map((one) => (
              <button key={one.name} type="button" aria-pressed={one === now} onClick={() => setChosen(one.name)}>
                {one.name}
              </button>
            ))}
          </div>
          <Start key={now.name} experiment={now} run={found.run} look={look} />
        </Card>
        {found.run && <Progress run={found.run} look={look} />}
      </div>
      <div>
        <Outcome key={`${now.name} ${now.measured_at}`} experiment={now} />
      </div>
    </div>
  );
}

type Said = Record<string, string | boolean>;

function Start({ experiment, run, look }: { experiment: Experiment; run: ExperimentRun | null; look: () => Promise<void> }) {
  const [said, setSaid] = useState<Said>({});
  const [failure, setFailure] = useState<unknown>(null);
  const going = run !== null && run.ended === null;
  const here = experiment.options.some((option) => option.kind === "here" && said[option.name] === true);
  async function start() {
    const options: Record<string, number | boolean | string> = {};
    for (const option of experiment.options) {
      const value = said[option.name];
      if (value === undefined || value === "") continue;
      options[option.name] = option.kind === "number" ? Number(value) : value;
    }
    await call("POST", `${PATH}/${experiment.name}`, { options });
    await look();
  }
  return (
    <>
      <p class="about">{experiment.about}</p>
      <div class="row">
        {experiment.options.map((option) => (
          <OptionField key={option.name} option={option} value={said[option.name]} say={(value) => setSaid({ ...said, [option.name]: value })} />
        ))}
      </div>
      <div class="actions">
        <Button kind="primary" does={start} failed={setFailure} disabled={going} title={going ? `${run.name} is running` : "As duet experiment does"}>
          Start {experiment.name}
        </Button>
      </div>
      <Failure error={failure} />
      {mayWrite() && (
        <p class="hint">
          {here ? "In the testbed that you see. " : "In a testbed of its own, which comes and goes. It shares this machine with the testbed that you see. "}
          For figures to keep, run <code>duet experiment {experiment.name}</code> alone.
        </p>
      )}
    </>
  );
}

function OptionField({ option, value, say }: { option: ExperimentOption; value: string | boolean | undefined; say: (value: string | boolean) => void }) {
  if (option.kind === "flag" || option.kind === "here") {
    return (
      <label class="inline check">
        <input type="checkbox" checked={value === true} onChange={(event) => say(event.currentTarget.checked)} />{" "}
        {option.kind === "here" ? "In the testbed that is shown" : option.about}
      </label>
    );
  }
  return (
    <Field label={option.name} hint={option.about}>
      {(id, described) => (
        <input
          id={id}
          aria-describedby={described}
          type={option.kind === "number" ? "number" : "text"}
          min={option.least ?? undefined}
          max={option.most ?? undefined}
          placeholder={option.default === null ? "" : String(option.default)}
          value={typeof value === "string" ? value : ""}
          onInput={(event) => say(event.currentTarget.value)}
        />
      )}
    </Field>
  );
}

function Progress({ run, look }: { run: ExperimentRun; look: () => Promise<void> }) {
  const [failure, setFailure] = useState<unknown>(null);
  const going = run.ended === null;
  const took = (run.ended ?? Date.now() / 1000) - run.began;
  return (
    <Card
      title={
        <>
          {run.name} <small>began {clock(run.began)}</small>
        </>
      }
      tools={
        <>
          <span role="status">
            {going ? (
              <Badge tone="info">{run.stopped ? "being stopped" : `runs for ${ago(took)}`}</Badge>
            ) : run.stopped ? (
              <Badge tone="warn">stopped after {ago(took)}</Badge>
            ) : run.code === 0 ? (
              <Badge tone="good">done in {ago(took)}</Badge>
            ) : (
              <Badge tone="bad">ended with {run.code}</Badge>
            )}
          </span>
          {going && (
            <Button
              kind="danger"
              failed={setFailure}
              does={async () => {
                await call("DELETE", PATH);
                await look();
              }}
            >
              Stop
            </Button>
          )}
        </>
      }
    >
      <Failure error={failure} />
      <pre class="log" tabIndex={0} aria-label="What it says" aria-live="polite">
        {run.lines.length ? run.lines.join("\n") : "It has said nothing yet."}
      </pre>
    </Card>
  );
}

function Outcome({ experiment }: { experiment: Experiment }) {
  const { name, files, measured_at: at } = experiment;
  const [summary, setSummary] = useState<Record<string, unknown> | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    if (files.includes("json")) get<Record<string, unknown>>(`${PATH}/${name}/summary`).then(setSummary, setError);
  }, [name, at]);
  if (at === null) {
    return (
      <Card title="Figures">
        <Empty>{name} was not measured here yet.</Empty>
      </Card>
    );
  }
  const picture = files.find((kind) => kind === "svg" || kind === "png");
  const file = (kind: string) => `${PATH}/${name}/files/${kind}?at=${at}`;
  return (
    <Card
      title={
        <>
          Figures of {name} <small>{clock(at)}</small>
        </>
      }
      tools={files.map((kind) => (
        <a key={kind} href={file(kind)} download={`${name}.${kind}`}>
          {kind.toUpperCase()}
        </a>
      ))}
    >
      <Failure error={error} />
      {picture && <img class="figure" src={file(picture)} alt={`Figure of ${name}; its values are below`} />}
      {summary && <Values value={summary} />}
    </Card>
  );
}

/** From how many characters on a text may break anywhere. */
const LONG = 40;

/** Anything that JSON can say: rows of the same fields as a table, the rest by name. */
function Values({ value }: { value: unknown }) {
  if (Array.isArray(value)) {
    const rows = value.slice(0, 60);
    if (!rows.length) return <>none</>;
    if (!rows.every((row) => row !== null && typeof row === "object" && !Array.isArray(row))) return <>{rows.map(plain).join(", ")}</>;
    const names = [...new Set(rows.flatMap((row) => Object.keys(row as object)))];
    return (
      <div class="scroll" tabIndex={0}>
        <table>
          <thead>
            <tr>
              {names.map((one) => (
                <th key={one}>{one.replaceAll("_", " ")}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row, n) => (
              <tr key={n}>
                {names.map((one) => {
                  const said = plain((row as Record<string, unknown>)[one]);
                  return (
                    <td key={one} class={String(said).length > LONG ? "long" : ""}>
                      {said}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    );
  }
  if (value === null || typeof value !== "object") return <>{plain(value)}</>;
  const entries = Object.entries(value).filter(([one]) => one !== "machine" && one !== "name");
  return (
    <dl class="values">
      {entries.map(([one, inner]) => (
        <div key={one} class={inner !== null && typeof inner === "object" ? "wide" : ""}>
          <dt>{one.replaceAll("_", " ")}</dt>
          <dd>
            <Values value={inner} />
          </dd>
        </div>
      ))}
    </dl>
  );
}

function plain(value: unknown): string {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "number") return Number.isInteger(value) ? count(value) : value.toLocaleString("en", { maximumSignificantDigits: 4 });
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.slice(0, 60).map(plain).join(", ");
  if (typeof value !== "object") return String(value);
  return Object.entries(value)
    .map(([one, inner]) => `${one.replaceAll("_", " ")} ${plain(inner)}`)
    .join(", ");
}
