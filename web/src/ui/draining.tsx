// An SMux is left alone before somebody works on it, and taken into service again.

import { useState } from "preact/hooks";
import { call } from "../lib/api";
import { Button, Failure } from "./parts";

export function DrainSmux({ smux, draining }: { smux: string; draining: boolean }) {
  const [error, setError] = useState<unknown>(null);
  const drain = (wanted: boolean) => call("PUT", `/v1/devices/${smux}/draining`, { draining: wanted });
  return (
    <>
      {draining ? (
        <Button kind="primary" title="It may be preferred again" does={() => drain(false)} failed={setError}>
          End the drain of {smux}
        </Button>
      ) : (
        <Button title="Every neighbour prefers other SMuxes; it serves on what still comes" does={() => drain(true)} failed={setError}>
          Drain {smux}
        </Button>
      )}
      <Failure error={error} />
    </>
  );
}
