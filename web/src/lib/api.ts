// Requests to the origin that the page came from, and errors in words.

export interface InvalidValue {
  where: string;
  value: string;
  reason: string;
}

/** A request that was refused, or not answered (status 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    detail: string,
    readonly kind = "",
    readonly errors: InvalidValue[] = [],
  ) {
    super(detail);
  }
}

const PATIENCE_MS = 10_000;
const PREFIX = "urn:duet-p4:problem:";

async function refusal(reply: Response): Promise<ApiError> {
  try {
    const problem = (await reply.json()) as { type?: string; detail?: string; errors?: InvalidValue[] };
    const kind = problem.type?.startsWith(PREFIX) ? problem.type.slice(PREFIX.length) : "";
    return new ApiError(reply.status, problem.detail ?? reply.statusText, kind, problem.errors ?? []);
  } catch {
    return new ApiError(reply.status, `${reply.status} ${reply.statusText}`);
  }
}

async function send(method: string, path: string, init: RequestInit): Promise<Response> {
  let reply: Response;
  try {
    reply = await fetch(path, { method, credentials: "same-origin", ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    if (error instanceof DOMException && error.name === "TimeoutError") throw new ApiError(0, `no answer in ${PATIENCE_MS / 1000} s`);
    throw new ApiError(0, "nobody answers at this address: the testbed is down, or `duet web` has ended");
  }
  if (!reply.ok) throw await refusal(reply);
  return reply;
}

export async function call<Answer>(
  method: "GET" | "POST" | "PUT" | "DELETE",
  path: string,
  body?: unknown,
  revision?: number,
): Promise<Answer> {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (revision !== undefined) headers["If-Match"] = `"${revision}"`;
  const init: RequestInit = { headers };
  if (body !== undefined) init.body = JSON.stringify(body);
  const reply = await send(method, path, init);
  return (reply.status === 204 ? undefined : await reply.json()) as Answer;
}

/** Asks for something that is there at once; what changes something takes as long as it takes. */
export async function get<Answer>(path: string): Promise<Answer> {
  const reply = await send("GET", path, { signal: AbortSignal.timeout(PATIENCE_MS) });
  return (await reply.json()) as Answer;
}

/** Reads an answer as it comes, piece by piece, until it ends or `signal` says so. */
export async function* stream(path: string, signal: AbortSignal): AsyncGenerator<string> {
  const reply = await send("GET", path, { signal });
  const reader = reply.body!.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/** Server-sent events, with their names. */
export async function* events(
  path: string,
  signal: AbortSignal,
): AsyncGenerator<{ event: string; data: string } | null> {
  let rest = "";
  for await (const part of stream(path, signal)) {
    rest += part;
    for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
      const block = rest.slice(0, end);
      rest = rest.slice(end + 2);
      let event = "message";
      const data: string[] = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) event = line.slice(7);
        else if (line.startsWith("data: ")) data.push(line.slice(6));
      }
      yield data.length ? { event, data: data.join("\n") } : event === "message" ? null : { event, data: "" };
    }
  }
}

/** What to show of anything that was thrown. */
export function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
