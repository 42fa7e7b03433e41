// Failing a node or link on purpose, and bringing it back.

import { useState } from "preact/hooks";
import { call } from "../lib/api";
import { Button, Failure } from "./parts";

export function FailRestore({ what, failed }: { what: string; failed: boolean }) {
  const [error, setError] = useState<unknown>(null);
  return (
    <>
      {failed ? (
        <Button kind="primary" does={() => call("POST", "/testbed/v1/restore", { what })} failed={setError}>
          Restore {what}
        </Button>
      ) : (
        <Button
          kind="danger"
          title="As if by power or cable; Restore brings it back"
          does={() => call("POST", "/testbed/v1/fail", { what })}
          failed={setError}
        >
          Fail {what}
        </Button>
      )}
      <Failure error={error} />
    </>
  );
}
