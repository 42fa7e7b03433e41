// What the controller's REST interface answers (/openapi.json).

export type Reach = "unknown" | "ready" | "unwell" | "unreachable" | "lost";

export interface Switch {
  name: string;
  role: "tor" | "agg" | "core";
  container: number | null;
  loopback: string;
}
export interface SMux {
  name: string;
  switch: string;
  address: string;
}
export interface Server {
  name: string;
  switch: string;
  dips: string[];
}
export interface Inventory {
  switches: Switch[];
  smuxes: SMux[];
  servers: Server[];
  links: { ends: [string, string]; capacity_bps: number }[];
  vip_prefix: string;
  tip_prefix: string;
}
export interface Agent {
  name: string;
  reach: Reach;
  detail: string;
  since: number;
}
export interface MuxStatus {
  name: string;
  kind: "hmux" | "smux";
  target: string;
  uptime_s: number;
  vips: number;
  tips: number;
  announced: number;
  tables: Record<string, { used: number; size: number }>;
  ports: {
    number: number;
    name: string;
    up: boolean;
    peer: string | null;
    received_bytes: number;
    sent_bytes: number;
  }[];
  sessions: { name: string; neighbor: string; asn: number; established: boolean; state: string; since: string; bfd: string }[];
  writes: number;
  synced: boolean;
  draining: boolean;
  health: string;
}
export interface MuxCounters {
  vips: { address: string; protocol: string | null; port: number | null; packets: number; bytes: number }[];
  tunnels: { address: string; packets: number; bytes: number }[];
  drops: Record<string, number>;
}
export interface LinkState {
  ends: [string, string];
  capacity_bps: number | null;
  up: boolean | null;
  bps: [number, number];
}
export interface Status {
  vips: number;
  on_hmuxes: number;
  on_smuxes: number;
  queue_depth: number;
  waiting: Record<string, string>;
  dips_down: string[];
  cut_off: string[];
  suspect: string;
  trouble: { name: string; problem: string; retry_in_s: number }[];
}
export interface VipLine {
  address: string;
  name: string | null;
  switch: string | null;
  waits_for: string | null;
  held: boolean;
  dips: number;
  out: number;
  tips: number;
  pinned: number;
  revision: number;
}
export interface Listing {
  version: number;
  whole: boolean;
  vips: VipLine[];
  removed: string[];
}
export interface Dip {
  address: string;
  weight?: number;
  host?: string | null;
}
export type CheckKind = "tcp" | "http" | "https" | "udp" | "dns" | "grpc";
export interface HealthCheck {
  kind: CheckKind;
  port: number;
  path?: string;
  name?: string;
  service?: string;
  send?: string;
  expect?: string;
  interval_ms?: number;
  timeout_ms?: number;
  fall?: number;
  rise?: number;
}
export interface PortGroup {
  protocol: "tcp" | "udp";
  port: number;
  dips: Dip[];
  health?: HealthCheck | null;
}
export interface VipSpec {
  address: string;
  name?: string | null;
  dips: Dip[];
  ports: PortGroup[];
  snat?: boolean;
  health?: HealthCheck | null;
}
export interface Group {
  members: Dip[];
  slots: number[];
}
export interface PinnedFlow {
  protocol: number;
  source: string;
  source_port: number;
  destination_port: number;
  dip: string;
}
export interface VipRecord {
  spec: VipSpec;
  layout: {
    address: string;
    group: Group | null;
    ports: { protocol: string; port: number; group: Group }[];
    pinned: PinnedFlow[];
  };
  switch: string | null;
  returning: string | null;
  leaving: string[];
  tips: { tip: { address: string; group: Group }; switch: string | null; returning: string | null }[];
  held: boolean;
  revision: number;
}
export interface Why {
  reasons: string[];
  waits_for: string[];
  problems: string[];
  retry_in_s: number | null;
}
export interface TrafficSample {
  vip: string;
  source: string;
  dip: string;
  bps: number;
  pps: number;
}
export interface DuetEvent {
  id: number;
  time: number;
  kind: string;
  subject: string;
  detail: Record<string, unknown>;
}
export interface Report {
  done: number;
  failed: string[];
  writes: number;
  wave_ms: Record<string, number>;
}
export interface Placement {
  address: string;
  switch: string | null;
}
export interface AssignmentResult {
  strategy: string;
  hmux_share: number;
  routes: number;
  placements: Placement[];
  problems: Record<string, string>;
}
export interface Explanation {
  name: string;
  switch: string | null;
  bottleneck: string | null;
  utilization: number | null;
  runner_up: string | null;
  runner_up_utilization: number | null;
  reason: string;
}
export interface Step {
  wave: string;
  device: string;
  action: string;
  address: string;
  why: string;
}
export interface Connections {
  flows: PinnedFlow[];
  silent: string[];
}
export interface Session {
  rights: "operator" | "reader";
  testbed: string | null;
}

// The testbed's own service (/testbed/v1).

export interface TestbedNode {
  name: string;
  kind: "tor" | "agg" | "core" | "smux" | "server" | "client";
  container: number | null;
  address: string;
  ports: Record<string, string>;
}
export interface Layout {
  name: string;
  target: string;
  nodes: TestbedNode[];
}
export interface Process {
  node: string;
  name: string;
  state: "running" | "crashed" | "stopped";
  pid: number | null;
  restarts: number;
  exit: string | null;
}
export interface Life {
  failed: string[];
  processes: Process[];
  crashes: { at: number; node: string; process: string; exit: string; tail: string[] }[];
}
export interface Log {
  name: string;
  lines: string[];
}

// A traced packet (mininet_topos/testbed/tracing.py, duet_p4/api/trace.py); values are hexadecimal.

export interface SourceLine {
  file: string;
  line: number;
  text: string;
}
export interface Value {
  name: string;
  value: string;
  width: number;
}
export interface Changed {
  field: string;
  before: string | null;
  after: string | null;
  width: number;
}
export interface PacketStep {
  kind: "state" | "parsed" | "branch" | "table" | "work" | "done" | "drop" | "sent";
  name: string;
  line: SourceLine | null;
  taken: boolean | null;
  key: { field: string; kind: string; value: string; wanted: string | null }[];
  hit: boolean | null;
  priority: number | null;
  installed?: { at: number | null; by: string | null } | null;
  action: string | null;
  action_line: SourceLine | null;
  arguments: Value[];
  counters: string[];
  changes: Changed[];
}
export interface PacketTrace {
  device: string;
  kind: "switch" | "smux" | "server";
  began_ns: number;
  ended_ns: number;
  ingress: string;
  length: number;
  headers_in: Value[];
  headers_out: Value[];
  steps: PacketStep[];
  verdict: string;
  egress: string | null;
  reason: string | null;
}
export interface Hop {
  node: string;
  came_from: string | null;
  went_to: string | null;
  trace: PacketTrace | null;
  note: string | null;
}
export interface TracedPacket {
  what: string;
  back: boolean;
  hops: Hop[];
  lost: boolean;
}
export interface Journey {
  client: string;
  vip: string;
  protocol: string;
  source: string;
  source_port: number;
  destination_port: number;
  answer: string;
  packets: TracedPacket[];
  untraced: string[];
  lost_records: number;
}
export interface Source {
  file: string;
  lines: string[];
}

export interface ExperimentOption {
  name: string;
  kind: "number" | "flag" | "here" | "words";
  default: number | boolean | null;
  least: number | null;
  most: number | null;
  about: string;
}
export interface Experiment {
  name: string;
  about: string;
  options: ExperimentOption[];
  measured_at: number | null;
  files: string[];
}
export interface ExperimentRun {
  name: string;
  began: number;
  ended: number | null;
  code: number | null;
  stopped: boolean;
  lines: string[];
}
export interface Experiments {
  experiments: Experiment[];
  run: ExperimentRun | null;
}

export interface FlowRecord {
  device: string;
  kind: "switch" | "smux" | "server";
  source: string;
  source_port: number;
  destination: string;
  destination_port: number;
  protocol: number;
  dip: string | null;
  packets: number;
  bytes: number;
  reply_packets: number;
  reply_bytes: number;
  sampling: number;
  first: number;
  last: number;
}
export interface FlowRecords {
  records: FlowRecord[];
  unreachable: string[];
}
