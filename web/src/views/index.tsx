// The views, in the order of the bar. A view is a name in the address, a title, and what draws it.

import type { ComponentChildren } from "preact";
import type { Route } from "../lib/router";
import { AssignmentView } from "./assignment";
import { EventsView } from "./events";
import { ExperimentsView } from "./experiments";
import { NetworkView } from "./network";
import { TraceView } from "./trace";
import { VipsView } from "./vips";

export interface View {
  name: string;
  title: string;
  draw: (route: Route) => ComponentChildren;
}

export const VIEWS: View[] = [
  { name: "network", title: "Network", draw: (route) => <NetworkView route={route} /> },
  { name: "vips", title: "VIPs", draw: (route) => <VipsView route={route} /> },
  { name: "trace", title: "Trace", draw: (route) => <TraceView route={route} /> },
  { name: "assignment", title: "Assignment", draw: () => <AssignmentView /> },
  { name: "events", title: "Events", draw: () => <EventsView /> },
  { name: "experiments", title: "Experiments", draw: () => <ExperimentsView /> },
];
